//! `saturate`: pairs by a schedule, step by step faster, until the p99 objective breaks or less is delivered than was sent;
//! then between the last good step and the first bad one. The result is the highest load that was sustained, which resource
//! bound it, how the others were used, and the p99 at 70% of it, where an operator should run.

use super::relay;
use crate::cli::{CourseArgs, RelayArgs, SaturateArgs};
use crate::compare::Spread;
use crate::measured::{Bound, Server, Utilisation};
use crate::progress::Progress;
use crate::report::{Fields, Headline, Report};
use anyhow::{Result, bail};

/// Messages per second at which the objective still holds.
const HEADLINE: Headline = Headline { name: "sustained_per_second", is_more_better: true };
const STEP_UP: f64 = 1.5;
/// The search ends when the first bad load is at most this much above the last good one.
const PRECISION: f64 = 1.06;
const STEPS_MAX: usize = 40;
/// Less than this share delivered is not sustained.
const DELIVERED_SHARE_MIN: f64 = 0.97;
/// Where a machine should be run.
const COMFORT: f64 = 0.7;
/// Runs there: what else the machine does is in some of them.
const COMFORT_RUNS: usize = 3;

/// One load and what came of it.
struct Step {
    rate: f64,
    is_sustained: bool,
    report: Report,
}

/// Runs all steps on one server.
pub fn run(args: &SaturateArgs) -> Result<Report> {
    let server = args.target.open()?;
    let mut progress = Progress::new();
    let mut steps: Vec<Step> = Vec::new();
    let (mut good, mut bad, mut rate) = (None, None::<f64>, args.from);
    while steps.len() < STEPS_MAX && !is_found(good, bad, args.to) {
        progress.show(&format!("step {}, {rate:.0} messages per second", steps.len() + 1));
        let mut step = step_at(args, &server, rate)?;
        if !step.is_sustained {
            // The machine has other things to do too: a step has to fail twice.
            step = step_at(args, &server, rate)?;
        }
        if step.is_sustained {
            good = Some(rate);
        } else {
            bad = Some(rate);
        }
        steps.push(step);
        rate = match (good, bad) {
            (Some(good), Some(bad)) => f64::midpoint(good, bad),
            (Some(good), None) => (good * STEP_UP).min(args.to),
            (None, _) => rate / STEP_UP.powi(3),
        };
        if rate < 1.0 {
            bail!("the objective of {} ms is not kept at any load", args.objective_ms);
        }
    }
    let sustained = good.unwrap_or(0.0);
    progress.show("at 70% of that");
    let comfortable =
        (0..COMFORT_RUNS).map(|_| step_at(args, &server, sustained * COMFORT)).collect::<Result<Vec<_>>>()?;
    report(args, &steps, sustained, &comfortable)
}

fn is_found(good: Option<f64>, bad: Option<f64>, to: f64) -> bool {
    good.is_some_and(|good| good >= to || bad.is_some_and(|bad| bad / good <= PRECISION))
}

fn step_at(args: &SaturateArgs, server: &Server, rate: f64) -> Result<Step> {
    let relay = RelayArgs {
        target: args.target.clone(),
        course: CourseArgs { seconds: args.seconds, warm_up_ms: args.warm_up_ms, settle_ms: 15_000 },
        pairs: args.pairs,
        window: 1,
        body: args.body,
        gated: false,
        rate: Some(rate),
        idle: 0,
    };
    let report = relay::run_on(server, &relay)?;
    let delivered = report.figures.number("delivered_per_second").unwrap_or(0.0);
    let is_kept = p99_us(&report).is_some_and(|p99| p99 <= args.objective_ms * 1e3);
    let is_sustained = is_kept && delivered >= rate * DELIVERED_SHARE_MIN && report.faults.is_empty();
    Ok(Step { rate, is_sustained, report })
}

fn p99_us(report: &Report) -> Option<f64> {
    report.figures.group("latency_us")?.number("p99")
}

fn report(args: &SaturateArgs, steps: &[Step], sustained: f64, comfortable: &[Step]) -> Result<Report> {
    let highest = |is_sustained: bool| {
        let of_kind = steps.iter().filter(move |step| step.is_sustained == is_sustained);
        of_kind.max_by(|a, b| if is_sustained { a.rate.total_cmp(&b.rate) } else { b.rate.total_cmp(&a.rate) })
    };
    let Some(best) = highest(true) else { bail!("the objective of {} ms is not kept at any load", args.objective_ms) };
    // What bound it shows at the first load that was too much, if there was one.
    let beyond = highest(false).unwrap_or(best);
    let used = Utilisation::of(&best.report.figures, args.target.server_cpus()?, args.nic_gbit);
    let used_beyond = Utilisation::of(&beyond.report.figures, args.target.server_cpus()?, args.nic_gbit);
    let bound = if beyond.report.is_saturated { Bound::Generator } else { used_beyond.bound() };

    let mut figures = Fields::default();
    figures.put_number(HEADLINE.name, sustained.round());
    figures.put("p99_us", p99_us(&best.report));
    figures.put_number("comfortable_per_second", (sustained * COMFORT).round());
    let at_70_percent = Spread::of(comfortable.iter().filter_map(|step| p99_us(&step.report)).collect());
    figures.put_number("p99_us_at_70_percent", at_70_percent.median);
    figures.put_group("p99_us_at_70_percent_spread", at_70_percent.fields());
    figures.put("bound_by", bound.name());
    figures.put("advice", bound.advice());
    figures.put_group("utilisation", used.fields());
    figures.put_group("utilisation_beyond", used_beyond.fields());
    figures.put_group("steps", steps.iter().chain(comfortable).map(summary).collect::<Vec<_>>());
    let mut parameters = Fields::default();
    parameters.put("pairs", args.pairs);
    parameters.put("body_bytes", args.body);
    parameters.put("objective_ms", args.objective_ms);
    parameters.put("seconds", args.seconds);
    parameters.put("executors", args.target.executors);
    let (generator, faults) = (best.report.generator.clone(), best.report.faults.clone());
    let (scenario, peer, is_saturated) = ("saturate", args.target.peer().name(), bound == Bound::Generator);
    let status = comfortable.last().and_then(|step| step.report.status.clone());
    Ok(Report { scenario, peer, parameters, figures, headline: HEADLINE, generator, is_saturated, faults, status })
}

fn summary(step: &Step) -> Fields {
    let mut fields = Fields::default();
    let number = |name: &str| step.report.figures.number(name);
    fields.put_number("rate", step.rate.round());
    fields.put("is_sustained", step.is_sustained);
    fields.put("delivered_per_second", number("delivered_per_second"));
    fields.put("p99_us", p99_us(&step.report));
    fields.put("delivered_per_cpu_second", number("delivered_per_cpu_second"));
    fields.put("server_cpu_seconds", number("server_cpu_seconds"));
    fields.put("server_spun_seconds", number("server_spun_seconds"));
    fields.put("generator_saturated", step.report.is_saturated);
    fields
}
