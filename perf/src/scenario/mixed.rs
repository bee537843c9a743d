//! `mixed`: a day in miniature. Most users are connected and say nothing, some talk in pairs, more in the busy hours than
//! at night, and some are away most of the day and come now and then for what waited.

use super::company::{self, Company};
use super::course::{Course, Settled};
use super::idle;
use crate::cli::{CourseArgs, MixedArgs};
use crate::load::Pace;
use crate::report::{Fields, Headline, Report};
use anyhow::{Result, ensure};
use std::time::Duration;

/// The server's CPU time for a user's day.
const HEADLINE: Headline = Headline { name: "server_cpu_us_per_user_day", is_more_better: false };
/// The part of the time between two visits that is a visit.
const STAY_SHARE: f64 = 0.25;

/// Who does what.
struct Shares {
    pairs: u32,
    visitors: u32,
    idle: u32,
}

/// Runs it once.
pub fn run(args: &MixedArgs) -> Result<Report> {
    let mut args = args.clone();
    args.target.prefix = Some(args.target.prefix());
    let shares = shares(&args)?;
    let server = args.target.open()?;
    let idle = idle::hold_all(&args.target, shares.idle, &server)?;
    let pace = |users: u32| Pace {
        per_second: f64::from(users) * args.messages_per_day / args.day_seconds,
        day_seconds: args.day_seconds,
    };
    let visit = Duration::from_secs_f64(args.day_seconds / f64::from(args.visits_per_day));
    let company = Company {
        target: &args.target,
        body: args.body,
        pairs: (shares.pairs, pace(shares.pairs * 2)),
        visitors: (shares.visitors, pace(shares.visitors)),
        times: (visit.mul_f64(STAY_SHARE), visit.mul_f64(1.0 - STAY_SHARE)),
    };
    let course = CourseArgs { seconds: args.day_seconds, warm_up_ms: 0, settle_ms: args.settle_ms };
    let course = Course::begin(&server, &course)?.scheduled();
    let measured = course.run(company.gather(&server)?, Settled { is_delivered: true, is_confirmed: true })?;

    let mut figures = Fields::default();
    if let Some(usage) = &measured.usage {
        figures.put_number(HEADLINE.name, usage.cpu_seconds() * 1e6 / f64::from(args.users));
    }
    figures.extend(company::figures(&measured, "delivered_per_cpu_second"));
    let status = super::ask_status(&args.target, &server, &mut figures)?;
    let mut faults = measured.crew.harvest.faults.clone();
    for holder in idle {
        let lost = holder.release()?;
        faults.disconnected += lost;
        if lost > 0 {
            faults.explain(|| format!("{lost} idle connections were closed by the server"));
        }
    }
    let (generator, is_saturated) = (measured.crew.fields(), measured.crew.is_saturated());
    let (scenario, peer, parameters) = ("mixed", args.target.peer().name(), parameters(&args, &shares));
    Ok(Report { scenario, peer, parameters, figures, headline: HEADLINE, generator, is_saturated, faults, status })
}

fn shares(args: &MixedArgs) -> Result<Shares> {
    let of = |percent: u32| (u64::from(args.users) * u64::from(percent) / 100) as u32;
    let (pairs, visitors) = ((of(args.talking_percent) / 2).max(1), of(args.away_percent).max(1));
    let others = pairs * 2 + visitors;
    ensure!(others <= args.users, "more than 100 percent of the users talk or are away");
    Ok(Shares { pairs, visitors, idle: args.users - others })
}

fn parameters(args: &MixedArgs, shares: &Shares) -> Fields {
    let mut fields = Fields::default();
    fields.put("users", args.users);
    fields.put("pairs", shares.pairs);
    fields.put("visitors", shares.visitors);
    fields.put("idle", shares.idle);
    fields.put("day_seconds", args.day_seconds);
    fields.put("messages_per_day", args.messages_per_day);
    fields.put("visits_per_day", args.visits_per_day);
    fields.put("body_bytes", args.body);
    fields.put("executors", args.target.executors);
    fields
}
