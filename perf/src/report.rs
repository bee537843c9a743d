//! What a run prints: one JSON object per run for machines, a table for people, both from the same fields. Names end in
//! their unit; times are µs unless the name says otherwise.

use crate::ledger::Faults;
use crate::measured::environment;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::io::{Write, stdout};

/// Named values in the order in which they were put.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Fields(Vec<(&'static str, Field)>);

/// One of them.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Field {
    /// A plain value.
    Plain(Value),
    /// More fields.
    Group(Fields),
    /// Groups alike.
    List(Vec<Fields>),
}

impl From<Fields> for Field {
    fn from(fields: Fields) -> Self {
        Self::Group(fields)
    }
}

impl From<Option<Fields>> for Field {
    fn from(fields: Option<Fields>) -> Self {
        fields.map_or(Self::Plain(Value::Null), Self::Group)
    }
}

impl From<Vec<Fields>> for Field {
    fn from(list: Vec<Fields>) -> Self {
        Self::List(list)
    }
}

impl Fields {
    /// Appends a plain value. What cannot be JSON (it does not occur here) becomes null.
    pub fn put(&mut self, name: &'static str, value: impl Serialize) {
        self.0.push((name, Field::Plain(serde_json::to_value(value).unwrap_or_default())));
    }

    /// Appends a number, rounded to three digits behind the point; what is not finite becomes null.
    pub fn put_number(&mut self, name: &'static str, value: f64) {
        self.put(name, (value * 1_000.0).round() / 1_000.0);
    }

    /// Appends a group, or a list of groups.
    pub fn put_group(&mut self, name: &'static str, group: impl Into<Field>) {
        self.0.push((name, group.into()));
    }

    /// Appends all of another's.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// A group by its name.
    pub fn group(&self, name: &str) -> Option<&Self> {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, Field::Group(fields))) => Some(fields),
            _ => None,
        }
    }

    /// A number by its name.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, Field::Plain(value))) => value.as_f64(),
            _ => None,
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

/// The figure that `compare` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headline {
    /// Its name among the figures.
    pub name: &'static str,
    /// Whether more is better.
    pub is_more_better: bool,
}

/// The result of one run.
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What was measured: `iris`, `raw`.
    pub peer: &'static str,
    /// What the run was asked to do.
    pub parameters: Fields,
    /// What was measured.
    pub figures: Fields,
    /// Which of them counts most.
    pub headline: Headline,
    /// The generator's own load.
    pub generator: Fields,
    /// A generator thread was hardly ever asleep.
    pub is_saturated: bool,
    /// Promises that were broken.
    pub faults: Faults,
    /// What the server's admin socket told, if it was asked.
    pub status: Option<Value>,
}

impl Report {
    /// Everything, for JSON.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put("scenario", self.scenario);
        fields.put("peer", self.peer);
        fields.put("headline", self.headline.name);
        fields.put("valid", self.faults.is_empty() && !self.is_saturated);
        fields.put("generator_saturated", self.is_saturated);
        fields.put_group("parameters", self.parameters.clone());
        fields.put_group("figures", self.figures.clone());
        fields.put("faults", &self.faults);
        fields.put_group("generator", self.generator.clone());
        if let Some(status) = &self.status {
            fields.put("status", status);
        }
        fields.put_group("environment", environment::fields());
        fields
    }

    /// The figure that counts most.
    pub fn headline_value(&self) -> Option<f64> {
        self.figures.number(self.headline.name)
    }

    /// Prints the run.
    pub fn print(&self, as_json: bool) {
        if as_json {
            line(&json(&self.fields()));
            return;
        }
        line(&format!("{} · {} · {}", self.scenario, self.peer, inline(&self.parameters)));
        print_rows(&self.figures);
        print_rows(&self.generator);
        if self.is_saturated {
            line("  the generator was saturated: the server could do more per second of wall time than this says");
        }
        if let Some(first) = &self.faults.first {
            line(&format!("  BROKEN PROMISE: {first}\n  {}", json(&self.faults)));
        }
    }
}

/// Prints a line. A reader that went away (`| head`) is no failure.
pub fn line(text: &str) {
    let _reader_gone = writeln!(stdout(), "{text}");
}

/// One line of JSON.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A line for each field, for people.
pub fn print_rows(fields: &Fields) {
    for (name, field) in &fields.0 {
        line(&format!("  {:<40} {}", name.replace('_', " "), readable(field)));
    }
}

fn inline(fields: &Fields) -> String {
    let words: Vec<String> = fields.0.iter().map(|(name, field)| format!("{name} {}", readable(field))).collect();
    words.join("  ")
}

/// As people read it: thousands apart, groups in line.
fn readable(field: &Field) -> String {
    match field {
        Field::Group(fields) => inline(fields),
        Field::List(list) => list.iter().map(inline).collect::<Vec<_>>().join(" | "),
        Field::Plain(Value::Null) => "–".to_owned(),
        Field::Plain(Value::String(text)) => text.clone(),
        Field::Plain(Value::Number(number)) => readable_number(number.as_f64().unwrap_or(0.0)),
        Field::Plain(other) => other.to_string(),
    }
}

/// With thousands apart.
pub fn readable_number(number: f64) -> String {
    let digits = if number.abs() >= 1_000.0 || number.fract() == 0.0 { 0 } else { 2 };
    let text = format!("{number:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |rest| ("-", rest));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{}", fraction.map_or(String::new(), |fraction| format!(".{fraction}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0.0, 999.0, 1_000.0, 1_234_567.8, -4_200.0, 0.256].map(readable_number);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,568", "-4,200", "0.26"]);
    }

    #[test]
    fn fields_keep_their_order_and_are_found() {
        let mut inner = Fields::default();
        inner.put("p99", 7);
        inner.put("p50", 5);
        let mut fields = Fields::default();
        fields.put("z", 1);
        fields.put_number("a", 1.0 / 3.0);
        fields.put_number("never", f64::NAN);
        fields.put_group("latency_us", inner);
        assert_eq!(json(&fields), r#"{"z":1,"a":0.333,"never":null,"latency_us":{"p99":7,"p50":5}}"#);
        assert_eq!((fields.number("a"), fields.number("b")), (Some(0.333), None));
    }
}
