//! What a run found, and the forms in which it is told: JSON, Markdown, SVG.

mod machine;
mod markdown;
mod plot;
mod targets;

pub(crate) use machine::Machine;

use crate::Result;
use crate::sample::{Sample, Spread};
use crate::servers::{Kind, Mode};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) image_bytes: u64,
    pub(crate) rows: Vec<RowReport>,
    pub(crate) figures: Vec<Figure>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RowReport {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) mode: Mode,
    pub(crate) by_bytes: bool,
    pub(crate) servers: Vec<ServerReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerReport {
    pub(crate) kind: Kind,
    pub(crate) samples: Vec<Sample>,
    /// Why a round gave no sample.
    pub(crate) failure: Option<String>,
}

/// A number that is no row of servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// What it counts, and how it was come by.
    pub(crate) note: String,
}

impl ServerReport {
    pub(crate) fn new(kind: Kind) -> ServerReport {
        ServerReport { kind, samples: Vec::new(), failure: None }
    }

    /// The spread of a figure over the rounds; None if one is missing, so that no server is judged
    /// by the rounds it survived.
    pub(crate) fn spread(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        if self.failure.is_some() {
            return None;
        }
        Spread::of(self.samples.iter().filter_map(figure))
    }
}

impl RowReport {
    pub(crate) fn server(&self, kind: Kind) -> Option<&ServerReport> {
        self.servers.iter().find(|server| server.kind == kind)
    }

    /// Median of a figure of one server.
    pub(crate) fn median(
        &self,
        kind: Kind,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        Some(self.server(kind)?.spread(figure)?.median)
    }

    fn speed(&self, sample: &Sample) -> f64 {
        if self.by_bytes { sample.megabytes } else { sample.rate }
    }

    fn unit(&self) -> &'static str {
        if self.by_bytes { "MB/s" } else { "IOPS" }
    }
}

impl Measured {
    pub(crate) fn row(&self, name: &str) -> Option<&RowReport> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Replaces what was known of the row.
    pub(crate) fn put(&mut self, row: RowReport) {
        match self.rows.iter_mut().find(|known| known.name == row.name) {
            Some(known) => *known = row,
            None => self.rows.push(row),
        }
    }

    pub(crate) fn put_figure(&mut self, figure: Figure) {
        self.figures.retain(|known| known.name != figure.name);
        self.figures.push(figure);
    }

    /// Servers that gave no figure in a row.
    pub(crate) fn failures(&self) -> usize {
        let servers = self.rows.iter().flat_map(|row| &row.servers);
        servers.filter(|server| server.failure.is_some()).count()
    }

    /// The table of targets, as printed at the end of a run.
    pub(crate) fn targets(&self) -> String {
        targets::table(self)
    }

    /// Writes `NAME.json`, `NAME.md` and the plots beside them.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(folder.join(format!("{name}.json")), json)?;
        fs::write(folder.join(format!("{name}-speed.svg")), plot::speed(self))?;
        fs::write(folder.join(format!("{name}-cpu.svg")), plot::cpu(self))?;
        fs::write(folder.join(format!("{name}.md")), markdown::page(self, name))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
