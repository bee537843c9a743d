//! `churn`: users come and go, and take what waited for them, while pairs talk. Everything must arrive once and in order
//! across all visits; the result is what the pairs notice, and what it costs.

use super::company::{self, Company};
use super::course::{Course, Settled};
use crate::cli::ChurnArgs;
use crate::load::Pace;
use crate::report::{Fields, Headline, Report};
use anyhow::Result;
use std::time::Duration;

/// Delivered messages per second of the server's CPU.
const HEADLINE: Headline = Headline { name: "delivered_per_cpu_second", is_more_better: true };

/// Runs it once.
pub fn run(args: &ChurnArgs) -> Result<Report> {
    let mut args = args.clone();
    args.target.prefix = Some(args.target.prefix());
    let server = args.target.open()?;
    let company = Company {
        target: &args.target,
        body: args.body,
        pairs: (args.pairs, Pace::even(args.rate)),
        visitors: (args.visitors, Pace::even(args.visitor_rate)),
        times: (Duration::from_millis(args.stay_ms), Duration::from_millis(args.away_ms)),
    };
    let course = Course::begin(&server, &args.course)?.scheduled();
    let measured = course.run(company.gather(&server)?, Settled { is_delivered: true, is_confirmed: true })?;

    let mut figures = company::figures(&measured, HEADLINE.name);
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    Ok(Report {
        scenario: "churn",
        peer: args.target.peer().name(),
        parameters: parameters(&args),
        figures,
        headline: HEADLINE,
        generator: measured.crew.fields(),
        is_saturated: measured.crew.is_saturated(),
        faults: measured.crew.harvest.faults,
        status,
    })
}

fn parameters(args: &ChurnArgs) -> Fields {
    let mut fields = Fields::default();
    fields.put("pairs", args.pairs);
    fields.put("rate", args.rate);
    fields.put("visitors", args.visitors);
    fields.put("visitor_rate", args.visitor_rate);
    fields.put("stay_ms", args.stay_ms);
    fields.put("away_ms", args.away_ms);
    fields.put("body_bytes", args.body);
    fields.put("executors", args.target.executors);
    fields
}
