//! Two daemons on loopback that know each other.

use super::{Daemon, Place};
use blockyard_faulty::Random;
use serde_json::Value;
use std::fs;
use std::path::Path;

pub(crate) const MIB: u64 = 1 << 20;

/// A daemon that peers can call.
pub(crate) struct Host {
    pub(crate) place: Place,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) address: String,
    pub(crate) fingerprint: String,
}

impl Host {
    pub(crate) fn new(flags: &[&str]) -> Host {
        let place = Place::new();
        let flags = [&["--peer", "127.0.0.1:0"], flags].concat();
        let daemon = place.serve(&flags);
        let address = daemon.ready.split("peers on ").nth(1).unwrap().to_owned();
        let fingerprint = place.ok(&["identity"]).trim().to_owned();
        Host { place, daemon: Some(daemon), address, fingerprint }
    }

    pub(crate) fn knows(&self, name: &str, other: &Host, allow: &[&str]) {
        self.knows_at(name, &other.address, &other.fingerprint, allow);
    }

    pub(crate) fn knows_at(&self, name: &str, address: &str, fingerprint: &str, allow: &[&str]) {
        let add = ["peer", "add", name, address, fingerprint];
        self.place.ok(&[&add, allow].concat());
    }

    /// An image of random bytes, some of them zero.
    pub(crate) fn import(&self, name: &str, bytes: &[u8]) {
        let file = self.place.path("import.img");
        fs::write(&file, bytes).unwrap();
        self.place.ok(&["image", "import", file.to_str().unwrap(), name]);
    }

    pub(crate) fn digest(&self, name: &str) -> String {
        let line = self.place.ok(&["image", "digest", name]);
        line.split_whitespace().next().unwrap().to_owned()
    }

    pub(crate) fn images(&self) -> usize {
        self.place.json(&["image", "list"])["images"].as_array().unwrap().len()
    }

    /// What a transfer that must fail said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let finished = self.place.run(arguments);
        assert!(!finished.status.success(), "{arguments:?}: {finished:?}");
        finished.err
    }

    /// Bytes that the daemon has had storage read for it.
    pub(crate) fn read_bytes(&self) -> u64 {
        let pid = self.daemon.as_ref().unwrap().pid();
        let usage = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let line = usage.lines().find(|line| line.starts_with("read_bytes")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Ends it in order; its pool must be sound.
    pub(crate) fn end(mut self) {
        self.daemon.take().unwrap().stop();
        self.place.ok(&["check", "--data", self.place.pool().to_str().unwrap()]);
    }
}

/// Random bytes with zeros in every fourth MiB.
pub(crate) fn content(seed: u64, mib: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = vec![0; (mib * MIB) as usize];
    for (number, part) in bytes.chunks_mut(MIB as usize).enumerate() {
        if number % 4 != 3 {
            part.chunks_mut(8).for_each(|eight| {
                eight.copy_from_slice(&random.below(u64::MAX).to_le_bytes());
            });
        }
    }
    bytes
}

pub(crate) fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report}"))
}

/// At the address it had.
pub(crate) fn restart(host: &mut Host) {
    host.daemon =
        Some(host.place.serve_pool(Path::new(&host.place.pool()), &["--peer", &host.address]));
}
