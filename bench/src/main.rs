//! The benchmark. `script/bench` builds everything, installs the peers and runs it; see its help.
//!
//! [`client`] makes the load, [`servers`] starts what is measured, [`rows`] lists what is measured, [`run`]
//! measures it, and [`report`] tells it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on has failed"))]

mod client;
mod command_line;
mod fio;
mod growth;
mod histogram;
mod process;
mod raw;
mod report;
mod rows;
mod run;
mod sample;
mod servers;

use std::process::ExitCode;

pub(crate) type Error = Box<dyn std::error::Error>;
pub(crate) type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command_line::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
