//! Latencies of one generator thread, in ns, as an hdrhistogram. Messages that came in one batch share their stamps, so
//! runs of equal latencies are recorded at once: a message costs a comparison.

use crate::report::Fields;
use hdrhistogram::Histogram;

/// The largest latency that is told apart, in ns: 10 minutes.
const NS_MAX: u64 = 600_000_000_000;

/// A histogram of latencies.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
    pending_ns: u64,
    pending: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, NS_MAX, 3).expect("constant bounds are valid");
        Self { histogram, pending_ns: 0, pending: 0 }
    }
}

impl Latencies {
    /// Notes one latency, in ns.
    #[inline]
    pub fn note(&mut self, ns: u64) {
        if ns == self.pending_ns {
            self.pending += 1;
        } else {
            self.settle();
            (self.pending_ns, self.pending) = (ns, 1);
        }
    }

    #[inline]
    fn settle(&mut self) {
        self.histogram.saturating_record_n(self.pending_ns, self.pending);
        self.pending = 0;
    }

    /// Forgets everything; the memory stays.
    pub fn clear(&mut self) {
        self.histogram.reset();
        self.pending = 0;
    }

    /// Adds another thread's latencies.
    pub fn add(&mut self, mut other: Self) {
        self.settle();
        other.settle();
        self.histogram.add(other.histogram).expect("equal bounds");
    }

    /// `{count, mean, p50, p90, p99, p999, max}`, the times in µs; null when nothing was noted.
    pub fn fields(mut self) -> Option<Fields> {
        self.settle();
        if self.histogram.is_empty() {
            return None;
        }
        let micros = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        let mut fields = Fields::default();
        fields.put("count", self.histogram.len());
        fields.put("mean", (self.histogram.mean() / 100.0).round() / 10.0);
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            fields.put(name, micros(self.histogram.value_at_quantile(quantile)));
        }
        fields.put("max", micros(self.histogram.max()));
        Some(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_latencies_count_each() {
        let mut latencies = Latencies::default();
        for ns in [5_000, 5_000, 5_000, 9_000] {
            latencies.note(ns);
        }
        let mut other = Latencies::default();
        other.note(9_000);
        latencies.add(other);
        let text = crate::report::json(&latencies.fields());
        assert_eq!(text, r#"{"count":5,"mean":6.6,"p50":5.0,"p90":9.0,"p99":9.0,"p999":9.0,"max":9.0}"#);
        assert!(Latencies::default().fields().is_none());
    }
}
