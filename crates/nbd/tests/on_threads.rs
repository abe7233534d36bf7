//! The whole suite with each connection having threads of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod suite;
mod support;

use blockyard_nbd::Limits;
use std::time::Duration;

fn limits() -> Limits {
    Limits { io_threads: 0, ..Limits::default() }
}

#[test]
fn a_queue_of_requests_keeps_a_device_busy_that_blocks_its_threads() {
    let mut disk = support::memory::MemoryDisk::new(1 << 20);
    disk.stall = Duration::from_millis(30);
    suite::adversity::keeps_busy(disk, 12..=16);
}
