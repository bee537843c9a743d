//! `compare`: Iris and a peer in turn, A B A B, each run with a fresh server. The ratio is made from neighbours in
//! time, so that slow changes of the machine cancel out; more is always better for Iris.

use crate::cli::{CompareArgs, Scenario};
use crate::measured::Peer;
use crate::report::{Fields, Headline, Report, json};
use crate::scenario;
use anyhow::{Context, Result, ensure};

/// Runs all rounds and prints. True: no promise was broken.
pub fn run(args: &CompareArgs) -> Result<bool> {
    ensure!(args.peer != Peer::Iris, "Iris cannot be its own peer here");
    let mut ours = args.scenario.clone();
    let mut theirs = args.scenario.clone();
    let as_json = ours.target().json;
    ensure!(!ours.target().raw, "--raw belongs to a scenario alone; with compare it is --peer raw");
    as_peer(&mut theirs, args.peer);

    let (mut our_reports, mut their_reports) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        our_reports.push(scenario::run(&ours)?);
        their_reports.push(scenario::run(&theirs)?);
    }
    print(&our_reports, &their_reports, as_json)?;
    Ok(our_reports.iter().chain(&their_reports).all(|report| report.faults.is_empty()))
}

/// The same scenario against the peer, always one that is started here.
fn as_peer(scenario: &mut Scenario, peer: Peer) {
    let target = scenario.target();
    target.raw = peer == Peer::Raw;
    (target.server, target.pid, target.iris, target.admin) = (None, None, None, None);
}

fn print(ours: &[Report], theirs: &[Report], as_json: bool) -> Result<()> {
    let (our, their) = (ours.first().context("no round was run")?, theirs.first().context("no round was run")?);
    let values = |reports: &[Report]| reports.iter().map(Report::headline_value).collect::<Option<Vec<f64>>>();
    let values = values(ours).zip(values(theirs)).context("a figure is missing: is the server's --pid known?")?;
    let ratio = Spread::of(ratios(&values.0, &values.1, our.headline));
    let (our_spread, their_spread) = (Spread::of(values.0), Spread::of(values.1));
    if !as_json {
        println!("{} · {} against {} · {}", our.scenario, our.peer, their.peer, json(&our.parameters));
        println!("  {:<20} {:>14} {:>14} {:>14}", "", "min", "median", "max");
        println!("  {:<20} {:>14.3} {:>14.3} {:>14.3}", "ratio", ratio.min, ratio.median, ratio.max);
        for (name, spread) in [(our.peer, our_spread), (their.peer, their_spread)] {
            println!("  {name:<20} {:>14.0} {:>14.0} {:>14.0}", spread.min, spread.median, spread.max);
        }
        for report in ours.iter().chain(theirs) {
            report.print(false);
        }
        return Ok(());
    }
    let mut fields = Fields::default();
    fields.put("scenario", our.scenario);
    fields.put("peer", their.peer);
    fields.put("figure", our.headline.name);
    fields.put_group("ratio", ratio.fields());
    fields.put_group("iris_spread", our_spread.fields());
    fields.put_group("peer_spread", their_spread.fields());
    fields.put_group("iris", ours.iter().map(Report::fields).collect::<Vec<_>>());
    fields.put_group(their.peer, theirs.iter().map(Report::fields).collect::<Vec<_>>());
    println!("{}", json(&fields));
    Ok(())
}

fn ratios(ours: &[f64], theirs: &[f64], headline: Headline) -> Vec<f64> {
    let ratio = |(our, their): (&f64, &f64)| if headline.is_more_better { our / their } else { their / our };
    ours.iter().zip(theirs).map(ratio).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// Panics if there is no value.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (middle, last) = (values.len() / 2, values.len() - 1);
        let lower = values[(values.len() - 1) / 2];
        Self { min: values[0], median: f64::midpoint(lower, values[middle]), max: values[last] }
    }

    fn fields(self) -> Fields {
        let mut fields = Fields::default();
        fields.put_number("min", self.min);
        fields.put_number("median", self.median);
        fields.put_number("max", self.max);
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_and_directions() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0]).median, 2.5);
        let more = Headline { name: "", is_more_better: true };
        let less = Headline { name: "", is_more_better: false };
        assert_eq!((ratios(&[2.0], &[4.0], more), ratios(&[2.0], &[4.0], less)), (vec![0.5], vec![2.0]));
    }
}
