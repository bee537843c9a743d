//! The text of a RON file as tokens: which field stands where, and `Env("NAME")` and `Env("NAME", default)` replaced.
//!
//! serde sees values without their places, so line, column and field of a fault come from here. Replacing keeps every
//! line where it is. What the value of a variable is taken for depends on the same field of the default configuration.

use super::fault::{ConfigError, Fault, Place, Problem};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A RON file and where it came from.
#[derive(Debug)]
pub struct Source {
    file: PathBuf,
    /// With `Env` replaced.
    pub text: String,
}

/// What stands in the lists that are empty in the default configuration.
const ELEMENTS: &str = r#"(cluster: (
    nodes: [(name: "", address: "", role: both, region: "", zone: "", shards: Auto)],
    seeds: [""],
), node: (
    cassandra: (hosts: [""]),
))"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string or character in quotes.
    Quoted,
    /// A name, number or keyword.
    Word,
    /// A bracket, colon or comma.
    Mark(char),
}

/// A token, and the field whose name or value it belongs to.
#[derive(Debug)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
    field: String,
}

/// What the default configuration has in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Number,
    Bool,
    /// A word such as `Auto`; also what is not in the default configuration.
    Word,
    /// A list of texts, or of words and numbers.
    List {
        is_quoted: bool,
    },
}

/// Looks environment variables up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Source {
    /// The text as it is, for the compiled-in default.
    pub fn plain(file: &Path, text: &str) -> Self {
        Source { file: file.to_path_buf(), text: text.to_owned() }
    }

    /// Replaces every `Env("NAME")` by the value of the variable.
    ///
    /// Errors: a variable that is not set, or whose value is not what the field takes.
    pub fn with_environment(
        file: &Path,
        text: &str,
        default: &str,
        environment: Environment,
    ) -> Result<Self, ConfigError> {
        let mut source = Source { file: file.to_path_buf(), text: String::with_capacity(text.len()) };
        let mut shapes = shapes(default);
        shapes.extend(self::shapes(ELEMENTS));
        let tokens = tokens(text);
        let mut copied = 0;
        for at in 0..tokens.len() {
            let Some(call) = env_call(text, &tokens[at..]) else { continue };
            let first = &tokens[at];
            let is_whole = at > 0 && tokens[at - 1].kind == Kind::Mark(':');
            let shape = shapes.get(&without_numbers(&first.field)).copied().unwrap_or(Shape::Word);
            let shape = if is_whole { shape } else { shape.element() };
            let literal = match (environment(call.name), call.default) {
                (Some(value), _) => shape.literal(call.name, &value),
                (None, Some(default)) => Ok(default.to_owned()),
                (None, None) => Err(Problem::EnvUnset(call.name.to_owned())),
            };
            let place = place(file, text, first.start);
            let literal = literal.map_err(|problem| Fault { place, field: first.field.clone(), problem })?;
            source.text.push_str(&text[copied..first.start]);
            source.text.push_str(&literal);
            copied = call.end;
        }
        source.text.push_str(&text[copied..]);
        Ok(source)
    }

    /// Place and field of what stands at a position as RON counts it, from 1.
    pub fn locate(&self, line: usize, column: usize) -> (Place, String) {
        let before = self.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
        let within = self.text[before..].chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>();
        let tokens = tokens(&self.text);
        let next = tokens.iter().position(|token| token.end > before + within).unwrap_or(tokens.len());
        // Faults of a value are found behind it.
        let is_behind = tokens.get(next).is_none_or(|token| matches!(token.kind, Kind::Mark(',' | ')' | ']')));
        match tokens.get(if is_behind { next.saturating_sub(1) } else { next }) {
            Some(token) => (place(&self.file, &self.text, token.start), token.field.clone()),
            None => (Place::File { file: self.file.clone(), line, column }, String::new()),
        }
    }

    /// Where this field is written, if it is.
    pub fn place_of_field(&self, field: &str) -> Option<Place> {
        let tokens = tokens(&self.text);
        let token = tokens.iter().find(|token| token.field == field)?;
        Some(place(&self.file, &self.text, token.start))
    }
}

fn place(file: &Path, text: &str, offset: usize) -> Place {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    Place::File { file: file.to_path_buf(), line, column: before[line_start..].chars().count() + 1 }
}

/// `Env("NAME")` or `Env("NAME", default)`.
struct EnvCall<'a> {
    name: &'a str,
    /// A text, number, word, or a list of them, as it is written.
    default: Option<&'a str>,
    end: usize,
}

/// The call that these tokens begin with.
fn env_call<'a>(text: &'a str, tokens: &[Token]) -> Option<EnvCall<'a>> {
    let [word, open, name, then, rest @ ..] = tokens else { return None };
    let is_call = word.kind == Kind::Word
        && &text[word.start..word.end] == "Env"
        && open.kind == Kind::Mark('(')
        && name.kind == Kind::Quoted;
    let name = text[name.start..name.end].trim_matches('"');
    match then.kind {
        _ if !is_call => None,
        Kind::Mark(')') => Some(EnvCall { name, default: None, end: then.end }),
        Kind::Mark(',') => {
            let close = rest.iter().position(|token| token.kind == Kind::Mark(')'))?;
            let (first, last) = (rest.first()?, rest[..close].last()?);
            let default = &text[first.start..last.end];
            (close == 1 || is_list(default)).then_some(EnvCall { name, default: Some(default), end: rest[close].end })
        }
        _ => None,
    }
}

impl Shape {
    fn of(token: &Token, next: Option<&Token>, text: &str) -> Self {
        match token.kind {
            Kind::Quoted => Shape::Text,
            Kind::Mark(_) => Shape::List { is_quoted: next.is_some_and(|next| next.kind == Kind::Quoted) },
            Kind::Word if matches!(&text[token.start..token.end], "true" | "false") => Shape::Bool,
            Kind::Word if is_number(&text[token.start..token.end]) => Shape::Number,
            Kind::Word => Shape::Word,
        }
    }

    fn element(self) -> Self {
        match self {
            Shape::List { is_quoted: true } => Shape::Text,
            Shape::List { is_quoted: false } => Shape::Word,
            other => other,
        }
    }

    /// The RON literal for the value of a variable.
    fn literal(self, name: &str, value: &str) -> Result<String, Problem> {
        let value = if self == Shape::Text { value } else { value.trim() };
        let mismatch = |wanted| Problem::EnvMismatch { name: name.to_owned(), value: value.to_owned(), wanted };
        match self {
            Shape::Text => Ok(quote(value)),
            Shape::Number if is_number(value) => Ok(value.to_owned()),
            Shape::Number => Err(mismatch("a number")),
            Shape::Bool if matches!(value, "true" | "false") => Ok(value.to_owned()),
            Shape::Bool => Err(mismatch("true or false")),
            Shape::Word if is_number(value) || is_word(value) => Ok(value.to_owned()),
            Shape::Word if is_list(value) => Ok(value.to_owned()),
            Shape::Word => Ok(quote(value)),
            Shape::List { .. } if is_list(value) => Ok(value.to_owned()),
            Shape::List { .. } => {
                let items: Result<Vec<_>, _> =
                    value.split(',').map(|item| self.element().literal(name, item.trim())).collect();
                Ok(format!("[{}]", items?.join(", ")))
            }
        }
    }
}

fn quote(value: &str) -> String {
    format!("\"{}\"", value.escape_default())
}

fn is_number(value: &str) -> bool {
    value.starts_with(|first: char| first.is_ascii_digit())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_word(value: &str) -> bool {
    value.starts_with(|first: char| first.is_ascii_alphabetic())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// One list on one line, and nothing behind it.
fn is_list(value: &str) -> bool {
    let tokens = tokens(value);
    let last = tokens.len().saturating_sub(1);
    let is_bracket = |at: usize, mark: char| tokens.get(at).is_some_and(|token| token.kind == Kind::Mark(mark));
    let inner = tokens.iter().take(last).skip(1).all(|token| !matches!(token.kind, Kind::Mark(mark) if mark != ','));
    last > 0 && is_bracket(0, '[') && is_bracket(last, ']') && inner && !value.contains(['\n', '/'])
}

fn shapes(default: &str) -> HashMap<String, Shape> {
    let tokens = tokens(default);
    let mut shapes = HashMap::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        if pair[0].kind == Kind::Mark(':') && pair[1].kind != Kind::Mark('(') {
            shapes.insert(without_numbers(&pair[1].field), Shape::of(&pair[1], tokens.get(at + 2), default));
        }
    }
    shapes
}

/// All tokens. Text that is no RON gives tokens too; RON's parser refuses it later.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut depths = vec![Depth::default()];
    let mut start = 0;
    while start < text.len() {
        let (kind, length) = token(&text[start..]);
        let end = start + length;
        match kind {
            Some(Kind::Mark('(')) => {
                let number = depths.last_mut().and_then(Depth::next_group);
                depths.push(Depth { number, ..Depth::default() });
            }
            Some(Kind::Mark('[' | '{')) => depths.push(Depth { groups: Some(0), ..Depth::default() }),
            Some(Kind::Mark(')' | ']' | '}')) if depths.len() > 1 => drop(depths.pop()),
            Some(Kind::Word) if is_name(&text[end..]) => {
                if let Some(depth) = depths.last_mut() {
                    depth.name = Some(&text[start..end]);
                }
            }
            _ => {}
        }
        if let Some(kind) = kind {
            tokens.push(Token { kind, start, end, field: field(&depths) });
        }
        start = end;
    }
    tokens
}

/// What stands between two brackets.
#[derive(Debug, Default)]
struct Depth<'a> {
    /// The last field's name.
    name: Option<&'a str>,
    /// In a list: how many groups it has so far.
    groups: Option<usize>,
    /// A group in a list: which one, from 0.
    number: Option<usize>,
}

impl Depth<'_> {
    fn next_group(&mut self) -> Option<usize> {
        let groups = self.groups.as_mut()?;
        *groups += 1;
        Some(*groups - 1)
    }
}

/// Such as `cluster.nodes[1].address`.
fn field(depths: &[Depth]) -> String {
    let mut field = String::new();
    for depth in depths {
        if let Some(number) = depth.number {
            field.push_str(&format!("[{number}]"));
        }
        if let Some(name) = depth.name {
            field.push_str(if field.is_empty() { "" } else { "." });
            field.push_str(name);
        }
    }
    field
}

/// The field without the places in lists.
fn without_numbers(field: &str) -> String {
    field.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// Whether a colon comes next: then the word before is a field's name.
fn is_name(mut rest: &str) -> bool {
    loop {
        match token(rest) {
            (Some(kind), _) => return kind == Kind::Mark(':'),
            (None, 0) => return false,
            (None, length) => rest = &rest[length..],
        }
    }
}

/// Kind and length of what the text starts with; no kind for white space, comments and what is unknown.
fn token(text: &str) -> (Option<Kind>, usize) {
    let Some(first) = text.chars().next() else { return (None, 0) };
    if text.starts_with("//") {
        return (None, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (None, block_comment(text));
    }
    if let Some(length) = raw_string(text) {
        return (Some(Kind::Quoted), length);
    }
    match first {
        '"' | '\'' => (Some(Kind::Quoted), quoted(text, first)),
        '(' | ')' | '[' | ']' | '{' | '}' | ':' | ',' => (Some(Kind::Mark(first)), 1),
        c if is_word_char(c) => (Some(Kind::Word), text.find(|c| !is_word_char(c)).unwrap_or(text.len())),
        other => (None, other.len_utf8()),
    }
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')
}

fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == mark => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?.chars().take_while(|&c| c == '#').count();
    let inner = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(inner.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "(a: (text: \"x\", number: 1, flag: true, word: Auto, list: [\"x\"], words: [tcp]))";

    fn replaced(text: &str, value: &'static str) -> Result<String, String> {
        let environment = |name: &str| (name == "V").then(|| value.to_owned());
        Source::with_environment(Path::new("f.ron"), text, DEFAULT, &environment)
            .map(|source| source.text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_becomes_what_the_field_takes() {
        let cases = [
            ("text", "it's \"so\"\n", r#""it\'s \"so\"\n""#),
            ("text", "42", "\"42\""),
            ("number", " 4_2 ", "4_2"),
            ("flag", "false", "false"),
            ("word", "Auto", "Auto"),
            ("word", "4", "4"),
            ("word", "[0, 1]", "[0, 1]"),
            ("word", "/var/lib", "\"/var/lib\""),
            ("list", "a:1, b:2", "[\"a:1\", \"b:2\"]"),
            ("list", "[\"a\", \"b\"]", "[\"a\", \"b\"]"),
            ("words", "tcp,quic", "[tcp, quic]"),
        ];
        for (field, value, literal) in cases {
            let text = format!("(a: (\n{field}: Env(\"V\"), // Env(\"NO\")\n))");
            let wanted = format!("(a: (\n{field}: {literal}, // Env(\"NO\")\n))");
            assert_eq!(replaced(&text, value), Ok(wanted), "{field} {value}");
        }
        assert_eq!(replaced("(a: (list: [Env(\"V\"), \"y\"]))", "x,y"), Ok("(a: (list: [\"x,y\", \"y\"]))".into()));
    }

    #[test]
    fn a_value_cannot_bring_structure_along() {
        for (field, value) in [("number", "1, flag: true"), ("flag", "yes")] {
            let fault = replaced(&format!("(a: ({field}: Env(\"V\")))"), value).expect_err(value);
            assert!(fault.contains(&format!(": a.{field}: the environment variable V is `")), "{fault}");
        }
        let quoted = "(a: (list: [\"[\\\"a\\\"]\", \"flag: [\\\"b\\\"]\"]))";
        assert_eq!(replaced("(a: (list: Env(\"V\")))", "[\"a\"], flag: [\"b\"]"), Ok(quoted.into()));
        assert_eq!(replaced("(a: (word: Env(\"V\")))", "x)//"), Ok("(a: (word: \"x)//\"))".into()));
    }

    #[test]
    fn an_unset_variable_is_named_with_its_place() {
        let fault = replaced("(\n  /* Env(\"NO\") /* */ */ a: (text: Env(\"NOPE\")))", "").expect_err("unset");
        assert_eq!(fault, "f.ron:2:35: a.text: the environment variable NOPE is not set");
    }

    #[test]
    fn a_default_stands_for_an_unset_variable_as_it_is_written() {
        let text = "(a: (text: Env(\"NO\", \"x\"), word: Env(\"NO\" , Auto), number: Env(\"V\", 7), list: [Env(\"NO\", \"y\")]))";
        let wanted = "(a: (text: \"x\", word: Auto, number: 8, list: [\"y\"]))";
        assert_eq!(replaced(text, "8"), Ok(wanted.to_owned()));
        assert_eq!(replaced("(a: (list: Env(\"NO\", [\"y\", \"z\"])))", ""), Ok("(a: (list: [\"y\", \"z\"]))".into()));
        assert_eq!(replaced("(a: (list: Env(\"NO\", [])))", ""), Ok("(a: (list: []))".into()));
        // No call, so RON refuses it.
        for text in ["(a: (b: Env(\"NO\", (c: 1))))", "(a: (text: Env(\"NO\", )))", "(a: (text: Env(\"NO\", \"x\""] {
            assert_eq!(replaced(text, ""), Ok(text.to_owned()));
        }
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        let text = "(a: (text: \"Env(\\\"V\\\")\", list: [r#\"Env(\"V\")\"#]))";
        assert_eq!(replaced(text, "x"), Ok(text.to_owned()));
    }

    #[test]
    fn positions_lead_to_fields_and_back() {
        let source = Source::plain(Path::new("f.ron"), "(a: (b: 1,\n  c: [2, 3]), d: 4)");
        let place = |line, column| Place::File { file: "f.ron".into(), line, column };
        assert_eq!(source.locate(1, 8), (place(1, 9), "a.b".into()));
        assert_eq!(source.locate(2, 10), (place(2, 10), "a.c".into()));
        assert_eq!(source.locate(2, 19), (place(2, 18), "d".into()));
        assert_eq!(source.place_of_field("a.c"), Some(place(2, 3)));
        assert_eq!(source.place_of_field("d"), Some(place(2, 15)));
        assert_eq!(source.place_of_field("a.x"), None);
    }

    #[test]
    fn groups_in_lists_are_numbered() {
        let source = Source::plain(Path::new("f.ron"), "(a: [(b: 1), (b: 2,\n b2: [3])], c: [4])");
        let place = |line, column| Place::File { file: "f.ron".into(), line, column };
        assert_eq!(source.place_of_field("a[0].b"), Some(place(1, 7)));
        assert_eq!(source.place_of_field("a[1].b"), Some(place(1, 15)));
        assert_eq!(source.locate(2, 7), (place(2, 7), "a[1].b2".into()));
        assert_eq!(source.locate(2, 18), (place(2, 17), "c".into()));
        assert_eq!(without_numbers("a[1].b[22].c"), "a.b.c");
    }

    #[test]
    fn a_variable_becomes_what_a_field_of_a_listed_node_takes() {
        let cases = [
            ("name", "42", "\"42\""),
            ("shards", "7", "7"),
            ("shards", "0-9,20", "\"0-9,20\""),
            ("role", "core", "core"),
        ];
        for (field, value, literal) in cases {
            let text = format!("(cluster: (nodes: [(), ({field}: Env(\"V\"))]))");
            assert_eq!(replaced(&text, value), Ok(format!("(cluster: (nodes: [(), ({field}: {literal})]))")));
        }
        assert_eq!(
            replaced("(cluster: (seeds: Env(\"V\")))", "a:1, b"),
            Ok("(cluster: (seeds: [\"a:1\", \"b\"]))".into())
        );
    }
}
