//! How cost grows: with images, with the size of maps, with what is dirty, with the pool; and what a
//! byte of a guest costs the disk. Each part is a table under a line that says when and on what it was
//! measured; a part that is to be measured later is one more function in [`PARTS`].

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
    /// The most references of an image.
    pub(crate) references: u64,
}

const PARTS: &[Part] = &[
    Part { name: "images", measure: parts::images },
    Part { name: "pools", measure: parts::pools },
    Part { name: "dirty", measure: parts::dirty },
    Part { name: "references", measure: parts::references },
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
        format!("{}\n\n{}{}{rows}", self.title, line(&head), line(&rule))
    }
}

/// Measures the parts whose names are `wanted`, or all, and writes `growth.md` into `output`; parts that
/// are there and were not measured again stay. A part that fails is told as such.
pub(crate) fn run(
    plan: &Plan,
    options: &Options,
    wanted: &[&str],
    command: &str,
    output: &Path,
) -> Result<()> {
    if let Some(word) = wanted.iter().find(|word| PARTS.iter().all(|part| part.name != **word)) {
        return Err(format!("no part is called {word}; see --help").into());
    }
    std::fs::create_dir_all(output)?;
    let path = output.join("growth.md");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let mut sections: Vec<Option<String>> =
        PARTS.iter().map(|part| section_of(&known, part.name)).collect();
    let mut failures = 0;
    for (part, section) in PARTS.iter().zip(0..) {
        if !wanted.is_empty() && !wanted.contains(&part.name) {
            continue;
        }
        let machine = Machine::here(plan)?;
        plan.tell_hook("begin", part.name)?;
        let measured = (part.measure)(plan, options);
        plan.tell_hook("end", part.name)?;
        let body = match measured {
            Ok(table) => table.markdown(),
            Err(error) => {
                failures += 1;
                format!("failed: {error}\n")
            }
        };
        let text = format!("{}{}\n\n{body}", heading(part.name), provenance(&machine, command));
        print!("\n{text}");
        sections[section] = Some(text);
        let page: Vec<&str> = sections.iter().flatten().map(String::as_str).collect();
        std::fs::write(&path, format!("{TITLE}\n{}", page.join("\n")))?;
    }
    match failures {
        0 => Ok(()),
        failures => Err(format!("{failures} parts failed").into()),
    }
}

const TITLE: &str = "# How Blockyard's cost grows\n";

fn heading(part: &str) -> String {
    format!("## {part}\n\n")
}

/// When, how and on what.
fn provenance(machine: &Machine, command: &str) -> String {
    format!(
        "{}, `{command}`. {} cores ({}), {}; {}. Load before: {}. {}.",
        machine.date,
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.file_system,
        machine.load,
        machine.versions.first().map_or("", String::as_str),
    )
}

/// What a page says of a part, with its heading.
fn section_of(page: &str, part: &str) -> Option<String> {
    let start = page.find(&heading(part))?;
    let rest = &page[start..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1);
    Some(format!("{}\n", rest[..end].trim_end()))
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
    use super::{Table, section_of};

    #[test]
    fn a_table_has_a_line_for_its_head_and_each_row() {
        let mut table = Table::new("Images", &["images", "IOPS"]);
        table.rows.push(vec!["1".to_owned(), "7".to_owned()]);
        let expected = "Images\n\n| images | IOPS |\n| --- | --- |\n| 1 | 7 |\n";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn a_part_is_found_in_a_page_that_was_written() {
        let page = "# Title\n\n## images\n\nwhen\n\n| 1 |\n\n## pools\n\n| 2 |\n";
        assert_eq!(section_of(page, "images").unwrap(), "## images\n\nwhen\n\n| 1 |\n");
        assert_eq!(section_of(page, "pools").unwrap(), "## pools\n\n| 2 |\n");
        assert_eq!(section_of(page, "dirty"), None);
    }
}
