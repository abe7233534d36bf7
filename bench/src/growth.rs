//! How cost grows: with images, with the size of maps, with what is dirty, with the pool; and what a
//! byte of a guest costs the disk. Each part is a table; a part that is to be measured later is one more
//! function in [`PARTS`].

mod parts;

use crate::Result;
use crate::report::{Figure, Machine};
use crate::run::Plan;
use std::path::Path;

/// One table.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

struct Part {
    name: &'static str,
    measure: fn(&Plan, &Options) -> Result<Table>,
}

/// What can be shortened.
pub(crate) struct Options {
    /// Of the row on write amplification.
    pub(crate) amplification_seconds: f64,
    pub(crate) amplification_gib: f64,
    /// The largest pool, in GiB.
    pub(crate) pool_gib: u64,
    /// The most clusters that are dirty at once.
    pub(crate) dirty: u64,
}

const PARTS: &[Part] = &[
    Part { name: "images", measure: parts::images },
    Part { name: "pools", measure: parts::pools },
    Part { name: "dirty", measure: parts::dirty },
    Part { name: "recovery", measure: parts::recovery },
    Part { name: "flush", measure: parts::flush },
    Part { name: "fragments", measure: parts::fragments },
    Part { name: "amplification", measure: parts::amplification },
];

impl Table {
    fn new(title: &str, columns: &[&'static str]) -> Table {
        Table { title: title.to_owned(), columns: columns.to_vec(), rows: Vec::new() }
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = self.columns.iter().map(|&column| column.to_owned()).collect();
        let rule = vec!["---".to_owned(); head.len()];
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("\n## {}\n\n{}{}{rows}", self.title, line(&head), line(&rule))
    }
}

/// Measures the parts whose names are `wanted`, or all, and writes `growth.md` into `output`. A part that
/// fails is told as such.
pub(crate) fn run(
    plan: &Plan,
    options: &Options,
    wanted: &[&str],
    command: &str,
    output: &Path,
) -> Result<()> {
    let machine = Machine::here(plan)?;
    let mut page = format!(
        "# How Blockyard's cost grows\n\n{}, `{command}`. {} cores ({}), {}; {}. Load before: {}. {}.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.file_system,
        machine.load,
        machine.versions.first().map_or("", String::as_str),
    );
    std::fs::create_dir_all(output)?;
    let mut failures = 0;
    for part in PARTS.iter().filter(|part| wanted.is_empty() || wanted.contains(&part.name)) {
        plan.tell_hook("begin", part.name)?;
        let measured = (part.measure)(plan, options);
        plan.tell_hook("end", part.name)?;
        let text = match measured {
            Ok(table) => table.markdown(),
            Err(error) => {
                failures += 1;
                format!("\n## {}\n\nfailed: {error}\n", part.name)
            }
        };
        print!("{text}");
        page += &text;
        std::fs::write(output.join("growth.md"), &page)?;
    }
    match failures {
        0 => Ok(()),
        failures => Err(format!("{failures} parts failed").into()),
    }
}

/// The two figures that have targets, shortened so that a quick run can have them.
pub(crate) fn figures(plan: &Plan, options: &Options) -> Result<Vec<Figure>> {
    let (amplification, note) = parts::write_amplification(plan, options)?;
    let (mib, pool) = parts::anonymous_mib_per_tib(plan, options.pool_gib)?;
    let figure = |name: &str, value, note| Figure { name: name.to_owned(), value, note };
    Ok(vec![
        figure("write-amplification", amplification, note),
        figure("anonymous-mib-per-tib", mib, pool),
    ])
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_table_has_a_line_for_its_head_and_each_row() {
        let mut table = Table::new("Images", &["images", "IOPS"]);
        table.rows.push(vec!["1".to_owned(), "7".to_owned()]);
        let expected = "\n## Images\n\n| images | IOPS |\n| --- | --- |\n| 1 | 7 |\n";
        assert_eq!(table.markdown(), expected);
    }
}
