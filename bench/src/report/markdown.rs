//! The report as a page.

use super::{Measured, RowReport, ServerReport};
use crate::sample::{Sample, Spread};
use crate::servers::Kind;

pub(super) fn page(run: &Measured, name: &str) -> String {
    let mut text = format!("# Blockyard beside other NBD servers ({name} run)\n\n");
    text += &about(run);
    text += "\n## Targets\n\nRatios of medians in this run.\n\n";
    text += &super::targets::table(run);
    text += &format!("\n## Plots\n\n![speed]({name}-speed.svg)\n\n![CPU]({name}-cpu.svg)\n");
    for mode in [crate::servers::Mode::Direct, crate::servers::Mode::Cached] {
        for row in run.rows.iter().filter(|row| row.mode == mode) {
            text += &format!("\n## {}, {} (`{}`)\n\n", row.title, mode.name(), row.name);
            text += &row_table(row);
        }
    }
    if !run.figures.is_empty() {
        text += "\n## Other figures\n\n| figure | value | what it is |\n| --- | --- | --- |\n";
        for figure in &run.figures {
            text += &format!("| {} | {:.2} | {} |\n", figure.name, figure.value, figure.note);
        }
    }
    text
}

fn about(run: &Measured) -> String {
    let machine = &run.machine;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut text = format!(
        "{}, `{}`. {} cores ({}), {:.0} GiB, {}; {}. Load before: {}.\n\n",
        machine.date,
        run.command,
        machine.cores,
        machine.processor,
        gib(machine.memory_bytes),
        machine.kernel,
        machine.file_system,
        machine.load,
    );
    text += &format!(
        "Image of {:.0} GiB, {} rounds of {} s, all servers of a row in each round one after the other. Medians, \
         with least and most in brackets. Our own client sends in batches and checks every reply; rows that say so \
         are fio's or nbdcopy's. CPU is the server's user and kernel time of all threads; what kernel threads do for \
         it is not in it. Memory is the peak resident in the row. Blockyard hashes every cluster (BLAKE3). On the raw file, \
         fio's CPU is that of fio itself; the flush row there is pwrite and fdatasync.\n\n",
        gib(run.image_bytes),
        run.rounds,
        run.seconds,
    );
    for version in &machine.versions {
        text += &format!("- {version}\n");
    }
    text
}

fn row_table(row: &RowReport) -> String {
    let mut text = format!(
        "| server | {} | Blockyard / it | p50 us | p99 us | p99.9 us | CPU us | memory MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        row.unit()
    );
    let ours = row.median(Kind::Blockyard, |sample| Some(row.speed(sample)));
    for server in &row.servers {
        if let Some(failure) = &server.failure {
            let failure = failure.replace('\n', " ").replace('|', "/");
            text += &format!("| {} | failed: {failure} | | | | | | |\n", server.kind.name());
        } else {
            text += &server_line(row, server, ours);
        }
    }
    text
}

fn server_line(row: &RowReport, server: &ServerReport, ours: Option<f64>) -> String {
    let speed = server.spread(|sample| Some(row.speed(sample)));
    let ratio = ours.zip(speed).map(|(ours, speed)| format!("{:.2}", ours / speed.median));
    let number = |figure: fn(&Sample) -> Option<f64>| told(server.spread(figure));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
        server.kind.name(),
        told(speed),
        ratio.filter(|_| server.kind != Kind::Blockyard).unwrap_or_default(),
        number(|sample| sample.p50_us),
        number(|sample| sample.p99_us),
        number(|sample| sample.p999_us),
        number(|sample| sample.cpu_us),
        number(|sample| sample.peak_memory.map(|bytes| bytes as f64 / f64::from(1 << 20))),
    )
}

fn told(spread: Option<Spread>) -> String {
    let Some(Spread { median, least, most }) = spread else { return "-".to_owned() };
    format!("{} ({} to {})", digits(median), digits(least), digits(most))
}

/// Three digits that count.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
