//! `compare`: Iris and a peer in turn, A B A B, each run with a fresh server. The ratio is made from neighbours in
//! time, so that slow changes of the machine cancel out; more is always better for Iris.

use crate::cli::{CompareArgs, Scenario};
use crate::peer::{Peer, script};
use crate::report::{Fields, Headline, Report, json, line};
use crate::scenario;
use anyhow::{Context, Result, ensure};

/// Runs all rounds and prints. True: no promise was broken.
pub fn run(args: &CompareArgs) -> Result<bool> {
    let mut ours = args.scenario.clone();
    let target = ours.target();
    ensure!(!target.raw, "--raw belongs to a scenario alone; with compare it is --peer raw");
    let (as_json, peer) = (target.json, target.peer.take().unwrap_or(Peer::Raw));
    ensure!(peer != Peer::Iris, "Iris cannot be its own peer here");
    peer.plays(ours.name())?;
    if let Some(why) = script::missing(peer)? {
        return Ok(skip(ours.name(), peer, &why, as_json));
    }
    let theirs = as_peer(&ours, peer);
    let is_limit_known = !args.no_limit && peer != Peer::Raw && matches!(ours, Scenario::Relay(_));
    let limit = is_limit_known.then(|| as_peer(&ours, Peer::Raw));
    let mut rounds = Rounds::default();
    for _ in 0..args.rounds {
        rounds.ours.push(scenario::run(&ours)?);
        rounds.theirs.push(scenario::run(&theirs)?);
        if let Some(limit) = &limit {
            rounds.limit.push(scenario::run(limit)?);
        }
    }
    rounds.print(as_json)?;
    Ok(rounds.all().all(|report| report.faults.is_empty()))
}

/// The same scenario against the peer, always one that is started here.
fn as_peer(scenario: &Scenario, peer: Peer) -> Scenario {
    let mut scenario = scenario.clone();
    let target = scenario.target();
    target.peer = Some(peer);
    (target.server, target.pid, target.iris, target.admin) = (Vec::new(), Vec::new(), None, None);
    scenario
}

/// A peer that is not installed is no failure.
fn skip(scenario: &str, peer: Peer, why: &str, as_json: bool) -> bool {
    if as_json {
        let mut fields = Fields::default();
        fields.put("scenario", scenario);
        fields.put("peer", peer.name());
        fields.put("skipped", why);
        line(&json(&fields));
    } else {
        line(&format!("{scenario} · {} · skipped: {why}", peer.name()));
    }
    true
}

/// What was measured, round by round.
#[derive(Default)]
struct Rounds {
    ours: Vec<Report>,
    theirs: Vec<Report>,
    /// Of `raw`, if it was run too.
    limit: Vec<Report>,
}

/// The figures of the headline, over all rounds.
struct Compared {
    ratio: Spread,
    ours: Spread,
    theirs: Spread,
    share_of_raw: Option<Spread>,
}

impl Rounds {
    fn all(&self) -> impl Iterator<Item = &Report> {
        self.ours.iter().chain(&self.theirs).chain(&self.limit)
    }

    fn compared(&self, headline: Headline) -> Result<Compared> {
        let ours = values(&self.ours)?;
        let theirs = values(&self.theirs)?;
        let ratio = Spread::of(ratios(&ours, &theirs, headline));
        let limit = if self.limit.is_empty() { None } else { Some(values(&self.limit)?) };
        let share_of_raw = limit.map(|limit| Spread::of(ratios(&ours, &limit, headline)));
        Ok(Compared { ratio, ours: Spread::of(ours), theirs: Spread::of(theirs), share_of_raw })
    }

    fn print(&self, as_json: bool) -> Result<()> {
        let (our, their) = self.ours.first().zip(self.theirs.first()).context("no round was run")?;
        let compared = self.compared(our.headline)?;
        if as_json {
            line(&json(&self.fields(our, their, &compared)));
            return Ok(());
        }
        line(&format!("{} · {} against {} · {}", our.scenario, our.peer, their.peer, json(&our.parameters)));
        line(&format!("  {:<30} {:>14} {:>14} {:>14}", our.headline.name, "min", "median", "max"));
        let row = |name: &str, spread: &Spread, digits: usize| {
            let Spread { min, median, max } = spread;
            line(&format!("  {name:<30} {min:>14.digits$} {median:>14.digits$} {max:>14.digits$}"));
        };
        row("ratio", &compared.ratio, 3);
        compared.share_of_raw.iter().for_each(|share| row("share of raw", share, 3));
        row(our.peer, &compared.ours, 0);
        row(their.peer, &compared.theirs, 0);
        self.all().for_each(|report| report.print(false));
        Ok(())
    }

    fn fields(&self, our: &Report, their: &Report, compared: &Compared) -> Fields {
        let mut fields = Fields::default();
        fields.put("scenario", our.scenario);
        fields.put("peer", their.peer);
        fields.put("figure", our.headline.name);
        fields.put_group("ratio", compared.ratio.fields());
        if let Some(share) = &compared.share_of_raw {
            fields.put_group("share_of_raw", share.fields());
        }
        fields.put_group("iris_spread", compared.ours.fields());
        fields.put_group("peer_spread", compared.theirs.fields());
        for reports in [&self.ours, &self.theirs, &self.limit] {
            if let Some(first) = reports.first() {
                fields.put_group(first.peer, reports.iter().map(Report::fields).collect::<Vec<_>>());
            }
        }
        fields
    }
}

fn values(reports: &[Report]) -> Result<Vec<f64>> {
    let value = |report: &Report| {
        let why = report.faults.first.as_deref().unwrap_or("is the server's --pid known?");
        report.headline_value().with_context(|| format!("{} gave no {}: {why}", report.peer, report.headline.name))
    };
    reports.iter().map(value).collect()
}

fn ratios(ours: &[f64], theirs: &[f64], headline: Headline) -> Vec<f64> {
    let ratio = |(our, their): (&f64, &f64)| if headline.is_more_better { our / their } else { their / our };
    ours.iter().zip(theirs).map(ratio).collect()
}

/// What several rounds gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Panics if there is no value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (middle, last) = (values.len() / 2, values.len() - 1);
        let lower = values[(values.len() - 1) / 2];
        Self { min: values[0], median: f64::midpoint(lower, values[middle]), max: values[last] }
    }

    /// For JSON.
    pub fn fields(self) -> Fields {
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
