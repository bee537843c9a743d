//! The kinds of plots: lines, ratios with their spread, shares against a band.

use super::draw::{Scale, Svg, Unit};

/// A line of a plot.
pub struct Series {
    /// At its end.
    pub name: String,
    /// Its colour.
    pub class: String,
    /// In the plot's units.
    pub points: Vec<(f64, f64)>,
}

/// One axis.
pub struct Axis {
    /// What it shows.
    pub label: &'static str,
    /// In which unit.
    pub unit: Unit,
    /// By powers of ten.
    pub is_log: bool,
    /// Ticks with names of their own; none: round numbers.
    pub named: Vec<(f64, &'static str)>,
}

/// Lines over a common axis.
pub struct Lines<'a> {
    /// What is seen.
    pub title: &'a str,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Levels to compare with: value, words.
    pub levels: Vec<(f64, String)>,
    /// Places to look at: value, words.
    pub marks: Vec<(f64, String)>,
    /// Its size.
    pub size: (f64, f64),
}

const LEFT: f64 = 64.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 44.0;
/// Between names at the lines' ends.
const NAME_HEIGHT: f64 = 15.0;
const LETTER: f64 = 6.9;

impl Lines<'_> {
    /// Draws it.
    pub fn draw(&self) -> String {
        let (width, height) = self.size;
        let longest = self.series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0);
        let right = width - (longest as f64 * LETTER + 18.0).clamp(24.0, width * 0.4);
        let (x, y) = self.scales(right, height - BOTTOM);
        let mut svg = Svg::new(width, height, self.title);
        svg.text("title start", (0.0, 14.0), self.title);
        self.draw_grid(&mut svg, (&x, &y), right);
        for (value, words) in &self.levels {
            let at = y.at(*value);
            svg.line("level", (LEFT, at), (right, at));
            svg.text("note start", (LEFT + 6.0, at - 5.0), words);
        }
        for (value, words) in &self.marks {
            let at = x.at(*value);
            svg.line("level", (at, TOP), (at, height - BOTTOM));
            svg.text("note end", (at - 6.0, TOP + 9.0), words);
        }
        for series in &self.series {
            self.draw_series(&mut svg, (&x, &y), series);
        }
        self.draw_names(&mut svg, (&x, &y), height - BOTTOM);
        svg.end()
    }

    fn scales(&self, right: f64, bottom: f64) -> (Scale, Scale) {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let range = |axis: &Axis, of: fn(&(f64, f64)) -> f64, more: &[(f64, String)], to| {
            let values = points().map(of).chain(more.iter().map(|(value, _)| *value));
            let (least, most) = values.fold((f64::INFINITY, 0f64), |(least, most), v| (least.min(v), most.max(v)));
            match (axis.named.first(), axis.named.last()) {
                (Some(first), Some(last)) => Scale::between((first.0, last.0), to),
                _ if axis.is_log => Scale::log((least, most), to),
                _ => Scale::linear(most, to),
            }
        };
        let x = range(&self.x, |point| point.0, &self.marks, (LEFT, right));
        let y = range(&self.y, |point| point.1, &self.levels, (bottom, TOP));
        (x, y)
    }

    fn draw_grid(&self, svg: &mut Svg, (x, y): (&Scale, &Scale), right: f64) {
        let bottom = self.size.1 - BOTTOM;
        for tick in y.ticks() {
            let at = y.at(tick);
            svg.line("grid", (LEFT, at), (right, at));
            svg.text("tick end", (LEFT - 8.0, at + 4.0), &self.y.unit.say(tick));
        }
        let named = |tick: f64| (tick, self.x.unit.say(tick));
        let ticks: Vec<(f64, String)> = if self.x.named.is_empty() {
            x.ticks().into_iter().map(named).collect()
        } else {
            self.x.named.iter().map(|(value, name)| (*value, (*name).to_owned())).collect()
        };
        for (value, name) in ticks {
            let at = x.at(value);
            svg.line("grid", (at, bottom), (at, bottom + 4.0));
            svg.text("tick middle", (at, bottom + 18.0), &name);
        }
        svg.line("axis", (LEFT, bottom), (right, bottom));
        svg.text("label end", (right, bottom + 36.0), self.x.label);
        svg.text("label start", (0.0, 31.0), self.y.label);
    }

    fn draw_series(&self, svg: &mut Svg, (x, y): (&Scale, &Scale), series: &Series) {
        let points: Vec<(f64, f64)> = series.points.iter().map(|(a, b)| (x.at(*a), y.at(*b))).collect();
        svg.path(&format!("line {}", series.class), &points);
        for (point, (a, b)) in points.iter().zip(&series.points) {
            let named = self.x.named.iter().find(|(value, _)| value == a);
            let place = named.map_or_else(|| self.x.unit.say(*a), |(_, name)| (*name).to_owned());
            svg.dot(&series.class, *point, &format!("{}: {} at {place}", series.name, self.y.unit.say(*b)));
        }
    }

    /// Names beside the ends of their lines, pushed apart where they would touch.
    fn draw_names(&self, svg: &mut Svg, (x, y): (&Scale, &Scale), bottom: f64) {
        let ends = self.series.iter().filter_map(|series| Some((series, series.points.last()?)));
        let mut names: Vec<(&Series, f64, f64)> =
            ends.map(|(series, (a, b))| (series, x.at(*a) + 10.0, y.at(*b) + 4.0)).collect();
        names.sort_by(|a, b| a.2.total_cmp(&b.2));
        let mut lowest = TOP;
        for (_, _, at) in &mut names {
            *at = at.max(lowest);
            lowest = *at + NAME_HEIGHT;
        }
        let over = (lowest - NAME_HEIGHT - bottom).max(0.0);
        for (series, across, at) in names {
            svg.text(&format!("name start {}", series.class), (across, at - over), &series.name);
        }
    }
}

/// Iris against one peer: least, median, largest ratio.
pub struct Ratio {
    /// What was compared.
    pub name: String,
    /// Least, median, largest.
    pub spread: [f64; 3],
}

const ROW: f64 = 30.0;

/// Where the bars of a plot of ratios begin, and what they are held against.
pub struct Measure<'a> {
    /// What is seen.
    pub title: &'a str,
    /// Where bars begin.
    pub base: f64,
    /// From here on it is good.
    pub goal: f64,
    /// Left and right of the goal's line.
    pub words: (&'a str, &'a str),
    /// In proportion from `base`, not by powers of ten.
    pub is_linear: bool,
}

/// Bars from the base to the median, with the spread of the rounds; better is to the right.
pub fn ratios(measure: &Measure<'_>, rows: &[Ratio]) -> String {
    let (width, top) = (880.0, 58.0);
    let bottom = top + ROW * rows.len() as f64;
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) as f64 * LETTER + 16.0;
    let (left, right) = (names.min(width * 0.45), width - 70.0);
    let all = || rows.iter().flat_map(|row| row.spread);
    let most = all().fold(measure.goal * 1.25, f64::max);
    let x = if measure.is_linear {
        Scale::linear(most, (left, right))
    } else {
        Scale::log((all().fold(measure.goal, f64::min), most), (left, right))
    };
    let mut svg = Svg::new(width, bottom + 26.0, measure.title);
    svg.text("title start", (0.0, 14.0), measure.title);
    for tick in x.ticks() {
        svg.line("grid", (x.at(tick), top - 8.0), (x.at(tick), bottom));
        svg.text("tick middle", (x.at(tick), bottom + 18.0), &Unit::Times.say(tick));
    }
    let goal = x.at(measure.goal);
    svg.text("note end", (goal - 8.0, top - 16.0), measure.words.0);
    svg.text("note start", (goal + 8.0, top - 16.0), measure.words.1);
    for (at, row) in rows.iter().enumerate() {
        let y = top + ROW * (at as f64 + 0.5);
        let class = if row.spread[1] >= measure.goal { "good" } else { "bad" };
        svg.text("row end", (left - 14.0, y + 4.0), &row.name);
        draw_ratio(&mut svg, (row, class), (&x, y), measure);
    }
    svg.line("parity", (goal, top - 8.0), (goal, bottom));
    svg.end()
}

fn draw_ratio(svg: &mut Svg, (row, class): (&Ratio, &str), (x, y): (&Scale, f64), measure: &Measure<'_>) {
    let [min, median, max] = row.spread.map(|ratio| x.at(ratio));
    let base = x.at(measure.base);
    svg.rect(&format!("bar {class}"), (base.min(median), y - 7.0), ((median - base).abs(), 14.0));
    svg.line("whisker", (min, y), (max, y));
    for end in [min, max] {
        svg.line("whisker", (end, y - 4.0), (end, y + 4.0));
    }
    let [least, middle, most] = row.spread.map(|ratio| Unit::Times.say(ratio));
    svg.dot(class, (median, y), &format!("{}: {middle}, {least} to {most} in its rounds", row.name));
    let (beside, goal) = (max.max(base) + 10.0, x.at(measure.goal));
    let is_crossed = beside < goal && beside + middle.chars().count() as f64 * LETTER + 4.0 > goal;
    svg.text("value start", (if is_crossed { goal + 10.0 } else { beside }, y + 4.0), &middle);
}

/// One resource: its name, how much of it was used at a load, and the words beside it.
pub struct Used {
    /// The resource.
    pub name: String,
    /// From 0 to 1.
    pub share: f64,
    /// Beside it.
    pub words: String,
}

/// Bars of how much is used, against the band where it should be.
pub fn utilisation(title: &str, rows: &[Used], band: (f64, f64)) -> String {
    let (width, top, left, right) = (880.0, 52.0, 170.0, 690.0);
    let bottom = top + ROW * rows.len() as f64;
    let x = Scale::between((0.0, 1.0), (left, right));
    let mut svg = Svg::new(width, bottom + 30.0, title);
    svg.text("title start", (0.0, 14.0), title);
    svg.rect("band", (x.at(band.0), top - 8.0), (x.at(band.1) - x.at(band.0), bottom - top + 8.0));
    svg.text("note middle", (f64::midpoint(x.at(band.0), x.at(band.1)), top - 14.0), "70–90%: used, with a reserve");
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        svg.line("grid", (x.at(tick), top - 8.0), (x.at(tick), bottom));
        svg.text("tick middle", (x.at(tick), bottom + 18.0), &format!("{:.0}%", tick * 100.0));
    }
    for (at, row) in rows.iter().enumerate() {
        let y = top + ROW * (at as f64 + 0.5);
        let class = match row.share {
            share if share > band.1 => "bar bad",
            share if share >= band.0 => "bar good",
            _ => "bar idle",
        };
        svg.text("row end", (left - 14.0, y + 4.0), &row.name);
        svg.rect("bar track", (left, y - 7.0), (right - left, 14.0));
        svg.rect(class, (left, y - 7.0), (x.at(row.share.clamp(0.0, 1.0)) - left, 14.0));
        svg.text("value start", (right + 12.0, y + 4.0), &format!("{:.0}% · {}", row.share * 100.0, row.words));
    }
    svg.end()
}
