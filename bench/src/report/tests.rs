//! A report must not say more than was measured.

use super::{Figure, Machine, Measured, RowReport, ServerReport};
use crate::sample::Sample;
use crate::servers::{Kind, Mode};

fn sample(rate: f64, cpu: f64) -> Sample {
    Sample { requests: 10, rate, cpu_us: Some(cpu), p50_us: Some(1.0), ..Sample::default() }
}

fn server(kind: Kind, rates: &[f64], cpu: f64) -> ServerReport {
    let samples = rates.iter().map(|rate| sample(*rate, cpu)).collect();
    ServerReport { kind, samples, failure: None }
}

fn run(servers: Vec<ServerReport>) -> Measured {
    let row = RowReport {
        name: "read-4k-qd32-cached".to_owned(),
        title: "4K <random> read".to_owned(),
        mode: Mode::Cached,
        by_bytes: false,
        servers,
    };
    Measured {
        machine: Machine::default(),
        command: "test".to_owned(),
        rounds: 3,
        seconds: 1.0,
        image_bytes: 1 << 30,
        rows: vec![row],
        figures: Vec::new(),
    }
}

fn line<'a>(table: &'a str, words: &str) -> &'a str {
    table.lines().find(|line| line.contains(words)).unwrap()
}

#[test]
fn a_target_is_judged_by_the_median_and_not_by_the_best_round() {
    let slow = server(Kind::Blockyard, &[390.0, 399.0, 900.0], 1.0);
    let table = run(vec![slow, server(Kind::QemuNbd, &[100.0; 3], 5.0)]).targets();
    assert!(line(&table, "| IOPS / qemu-nbd").contains("| 3.99 | **no** |"), "{table}");
    assert!(line(&table, "CPU per request / qemu-nbd").contains("| 0.20 | yes |"), "{table}");
}

#[test]
fn what_was_not_measured_or_failed_does_not_hold() {
    let mut broken = server(Kind::QemuNbd, &[100.0; 3], 5.0);
    broken.failure = Some("it | fell\nover".to_owned());
    let run = run(vec![server(Kind::Blockyard, &[900.0; 3], 1.0), broken]);
    assert_eq!(run.failures(), 1);
    let table = run.targets();
    assert!(line(&table, "| CPU per request / qemu-nbd").ends_with("| - | not measured |"));
    assert!(line(&table, "| CPU per request / nbdkit").ends_with("| - | not measured |"));
    assert_eq!(table.matches("| yes |").count(), 0);
    assert!(super::markdown::page(&run, "full").contains("failed: it / fell over"));
}

#[test]
fn a_figure_replaces_the_one_of_its_name() {
    let mut run = run(Vec::new());
    for value in [2.0, 1.05] {
        let note = String::new();
        run.put_figure(Figure { name: "write-amplification".to_owned(), value, note });
    }
    assert!(line(&run.targets(), "bytes to disk").contains("| 1.05 | yes |"));
}

#[test]
fn the_page_has_each_server_with_its_spread_and_the_plot_has_its_bar() {
    let servers =
        vec![server(Kind::Blockyard, &[2.0, 4.0, 6.0], 1.0), server(Kind::QemuNbd, &[8.0; 3], 5.0)];
    let run = run(servers);
    let page = super::markdown::page(&run, "full");
    assert!(page.contains("| Blockyard | 4.00 (2.00 to 6.00) |  |"), "{page}");
    assert!(page.contains("| qemu-nbd, raw | 8.00 (8.00 to 8.00) | 0.50 |"), "{page}");
    let plot = super::plot::speed(&run);
    assert_eq!(plot.matches("<rect x=").count(), 2);
    assert!(plot.contains("4K &lt;random> read"));
}

#[test]
fn json_comes_back_as_it_was() {
    let run = run(vec![server(Kind::Blockyard, &[2.0], 1.0)]);
    let json = serde_json::to_string(&run).unwrap();
    let back: Measured = serde_json::from_str(&json).unwrap();
    assert_eq!(back.rows[0].servers[0].samples, run.rows[0].servers[0].samples);
}
