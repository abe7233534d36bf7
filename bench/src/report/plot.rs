//! Bars as SVG, written by hand: a panel for each row, a bar for each server, a line from the least to the
//! most of the rounds. A crate for charts would bring fonts and image codecs for what is rectangles.

use super::markdown::digits;
use super::{Measured, RowReport};
use crate::sample::{Sample, Spread};
use crate::servers::Kind;

const NAME_WIDTH: f64 = 190.0;
const BAR_WIDTH: f64 = 420.0;
const WIDTH: f64 = NAME_WIDTH + BAR_WIDTH + 120.0;
const BAR_HEIGHT: f64 = 16.0;
const TITLE_HEIGHT: f64 = 30.0;

pub(super) fn speed(run: &Measured) -> String {
    bars(run, "Speed: longer is better", |row, sample| Some(row.speed(sample)), RowReport::unit)
}

pub(super) fn cpu(run: &Measured) -> String {
    bars(run, "Server CPU per request: shorter is better", |_, sample| sample.cpu_us, |_| "us")
}

fn bars(
    run: &Measured,
    title: &str,
    figure: impl Fn(&RowReport, &Sample) -> Option<f64>,
    unit: impl Fn(&RowReport) -> &'static str,
) -> String {
    let mut body = text(8.0, 20.0, "bold", &format!("{title} ({})", run.machine.date));
    let mut top = 34.0;
    for row in &run.rows {
        let values: Vec<(Kind, Spread)> = row
            .servers
            .iter()
            .filter_map(|server| Some((server.kind, server.spread(|s| figure(row, s))?)))
            .collect();
        if values.is_empty() {
            continue;
        }
        let title = format!("{}, {} ({})", row.title, row.mode.name(), unit(row));
        body += &text(8.0, top + 18.0, "bold", &title);
        top += TITLE_HEIGHT;
        let most = values.iter().map(|(_, spread)| spread.most).fold(0.0, f64::max);
        for (kind, spread) in values {
            body += &bar(top, kind, spread, most);
            top += BAR_HEIGHT;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        height = top + 12.0,
    )
}

fn bar(top: f64, kind: Kind, spread: Spread, most: f64) -> String {
    let at = |value: f64| NAME_WIDTH + if most > 0.0 { value / most * BAR_WIDTH } else { 0.0 };
    let colour = match kind {
        Kind::Blockyard => "#1f6fb2",
        Kind::Raw | Kind::NoEngine => "#8fb8d8",
        _ => "#b9b9b9",
    };
    let middle = top + BAR_HEIGHT / 2.0;
    let weight = if kind == Kind::Blockyard { "bold" } else { "normal" };
    let mut body = text(16.0, middle + 4.0, weight, kind.name());
    body += &format!(
        "<rect x=\"{NAME_WIDTH}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
         <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#333\"/>\n",
        top + 2.0,
        at(spread.median) - NAME_WIDTH,
        BAR_HEIGHT - 4.0,
        at(spread.least),
        at(spread.most),
    );
    body + &text(at(spread.most) + 6.0, middle + 4.0, weight, &digits(spread.median))
}

fn text(x: f64, y: f64, weight: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-weight=\"{weight}\">{words}</text>\n")
}
