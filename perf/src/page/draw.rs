//! Just enough SVG: marks with classes (colours are the style sheet's), scales with round ticks, and numbers as people
//! write them.

use std::fmt::Write;

/// A drawing. Its size is that of its coordinates; the page scales it.
pub struct Svg {
    body: String,
    width: f64,
    height: f64,
    label: String,
}

impl Svg {
    /// An empty one. The label is for those who cannot see it.
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        Self { body: String::new(), width, height, label: escape(label) }
    }

    fn put(&mut self, mark: std::fmt::Arguments<'_>) {
        let _never_fails = self.body.write_fmt(mark);
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.put(format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// A rectangle: corner, size.
    pub fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        let radius = if class.starts_with("bar") { 3.0 } else { 0.0 };
        self.put(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{radius}"/>"#
        ));
    }

    /// A dot that says something when one points at it.
    pub fn dot(&mut self, class: &str, (x, y): (f64, f64), says: &str) {
        let says = escape(says);
        self.put(format_args!(
            r#"<g class="dot {class}"><circle class="near" cx="{x:.1}" cy="{y:.1}" r="9"/><circle cx="{x:.1}" cy="{y:.1}" r="3.5"/><title>{says}</title></g>"#
        ));
    }

    /// A polyline.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut d = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _never_fails = write!(d, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
        }
        self.put(format_args!(r#"<path class="{class}" d="{d}"/>"#));
    }

    /// Text; the class says where it is anchored (`start`, `middle`, `end`).
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.put(format_args!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#));
    }

    /// The element.
    pub fn end(self) -> String {
        let Self { body, width, height, label } = self;
        format!(
            r#"<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="{label}">{body}</svg>"#
        )
    }
}

/// Text that is no markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// From values to coordinates.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    is_log: bool,
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    /// In proportion, from zero to a round number that is not below `most`.
    pub fn linear(most: f64, to: (f64, f64)) -> Self {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let step = round_step(most / 5.0);
        Self { is_log: false, from: (0.0, (most / step).ceil() * step), to }
    }

    /// By powers of ten, from a round number to a round number around both.
    pub fn log((least, most): (f64, f64), to: (f64, f64)) -> Self {
        let least = if least.is_finite() && least > 0.0 { least } else { 1.0 };
        let most = if most.is_finite() { most.max(least * 1.01) } else { least * 10.0 };
        Self { is_log: true, from: (round_below(least), round_above(most)), to }
    }

    /// Between exactly these.
    pub fn between(from: (f64, f64), to: (f64, f64)) -> Self {
        Self { is_log: false, from, to }
    }

    /// Where a value is.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.from.0) / self.from.0).ln() / (self.from.1 / self.from.0).ln()
        } else {
            (value - self.from.0) / (self.from.1 - self.from.0)
        };
        self.to.0 + (self.to.1 - self.to.0) * share
    }

    /// Round values to mark.
    pub fn ticks(&self) -> Vec<f64> {
        let (least, most) = self.from;
        if !self.is_log {
            let step = round_step((most - least) / 5.0);
            return (0..=10).map(|n| least + f64::from(n) * step).take_while(|tick| *tick <= most * 1.000_1).collect();
        }
        let decades = (most / least).log10();
        let parts: &[f64] = if decades > 3.5 {
            &[1.0]
        } else if decades > 1.5 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let first = least.log10().floor() as i32;
        let last = most.log10().ceil() as i32;
        let all = (first..=last).flat_map(|decade| parts.iter().map(move |part| part * 10f64.powi(decade)));
        all.filter(|tick| *tick >= least * 0.999 && *tick <= most * 1.001).collect()
    }
}

/// 1, 2 or 5 times a power of ten, not below `rough`.
fn round_step(rough: f64) -> f64 {
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * decade >= rough * 0.999);
    step.unwrap_or(10.0) * decade
}

fn round_below(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0].into_iter().find(|part| part * decade <= value * 1.001).unwrap_or(1.0) * decade
}

fn round_above(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().find(|part| part * decade >= value * 0.999).unwrap_or(10.0) * decade
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// Times as much.
    Times,
}

impl Unit {
    /// A number for a tick or a label.
    pub fn say(self, value: f64) -> String {
        match self {
            Self::Count => scaled(value, &[(1e9, "B"), (1e6, "M"), (1e3, "k")], ""),
            Self::Micros => scaled(value, &[(1e6, " s"), (1e3, " ms")], " µs"),
            Self::Bytes => scaled(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB")], " B"),
            Self::Times => format!("{}×", three_digits(value)),
        }
    }
}

fn scaled(value: f64, units: &[(f64, &str)], unit: &str) -> String {
    match units.iter().find(|(size, _)| value.abs() >= *size * 0.999_5) {
        Some((size, name)) => format!("{}{name}", three_digits(value / size)),
        None => format!("{}{unit}", three_digits(value)),
    }
}

fn three_digits(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ends_and_ticks() {
        let linear = Scale::linear(870.0, (0.0, 100.0));
        assert_eq!((linear.at(0.0), linear.at(1_000.0)), (0.0, 100.0));
        assert_eq!(linear.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1_000.0]);
        let log = Scale::log((30.0, 7_000.0), (0.0, 100.0));
        assert_eq!((log.at(20.0), log.at(10_000.0)), (0.0, 100.0));
        assert!(
            log.ticks()
                .iter()
                .zip([30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0])
                .all(|(a, b)| (a / b - 1.0).abs() < 1e-9)
        );
        for nonsense in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
            assert!(Scale::linear(nonsense, (0.0, 1.0)).at(0.5).is_finite());
            assert!(Scale::log((nonsense, nonsense), (0.0, 1.0)).at(1.0).is_finite());
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 12.0, 1_234.0, 999_999.0, 2_500_000.0].map(|n| Unit::Count.say(n)),
            ["0", "12", "1.23k", "1M", "2.5M"]
        );
        assert_eq!([85.0, 1_500.0, 2e6].map(|n| Unit::Micros.say(n)), ["85 µs", "1.5 ms", "2 s"]);
        assert_eq!([300.0, 13_600.0].map(|n| Unit::Bytes.say(n)), ["300 B", "13.6 kB"]);
        assert_eq!(Unit::Times.say(2.314), "2.31×");
    }

    #[test]
    fn text_is_no_markup() {
        let mut svg = Svg::new(1.0, 1.0, "<a & \"b\">");
        svg.text("start", (0.0, 0.0), "<script>");
        let text = svg.end();
        assert!(text.contains("&lt;a &amp; &quot;b&quot;&gt;") && !text.contains("<script>"));
    }
}
