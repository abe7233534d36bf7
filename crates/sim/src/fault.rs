//! What can be made to go wrong, and the counts of what did.

use std::collections::BTreeMap;
use std::io;

/// The kinds of operation a fault can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    Read,
    Write,
    Sync,
    Length,
    SetLength,
    Allocate,
    Punch,
    DropCache,
    Open,
    Create,
    List,
    Remove,
    SyncDirectory,
    SpaceAvailable,
}

/// How an injected failure looks to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// EIO.
    Io,
    /// ENOSPC.
    StorageFull,
}

impl FaultError {
    pub(crate) fn error(self) -> io::Error {
        match self {
            FaultError::Io => io::Error::from_raw_os_error(5),
            FaultError::StorageFull => io::Error::from_raw_os_error(28),
        }
    }
}

/// One failure to come: the `nth` operation (1 is the next) that matches fails, once.
#[derive(Debug, Clone)]
pub struct Fault {
    /// `None` matches every kind.
    pub kind: Option<OperationKind>,
    /// Matches files whose name contains this; the empty text matches all, directories too.
    pub name_contains: String,
    pub nth: u64,
    pub error: FaultError,
}

impl Fault {
    /// Counts an operation down; true when this one is to fail.
    fn strikes(&mut self, kind: OperationKind, name: &str) -> bool {
        if self.kind.is_some_and(|wanted| wanted != kind) || !name.contains(&self.name_contains) {
            return false;
        }
        self.nth = self.nth.saturating_sub(1);
        self.nth == 0
    }
}

/// The first fault that strikes this operation, removed from the list; all others are counted down.
pub(crate) fn strike(
    faults: &mut Vec<Fault>,
    kind: OperationKind,
    name: &str,
) -> Option<FaultError> {
    let struck: Vec<bool> = faults.iter_mut().map(|fault| fault.strikes(kind, name)).collect();
    let error = struck.iter().position(|struck| *struck).map(|index| faults[index].error);
    let mut struck = struck.into_iter();
    faults.retain(|_| !struck.next().unwrap_or(false));
    error
}

/// What happened in a world so far, crashes included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations that took effect or failed.
    pub operations: u64,
    pub kills: u64,
    pub power_cuts: u64,
    /// Page writes of which a crash kept some sectors and lost others.
    pub torn_writes: u64,
    /// Page writes a power cut lost as a whole.
    pub lost_writes: u64,
    pub injected_failures: u64,
    /// Those of them that were syncs.
    pub failed_syncs: u64,
    pub flipped_bits: u64,
    /// Operations refused because the capacity was reached.
    pub storage_full: u64,
    /// Syncs that were answered with success and did nothing.
    pub ignored_syncs: u64,
    /// Successful syncs by file name; `.` is the directory.
    pub syncs: BTreeMap<String, u64>,
}

impl Counters {
    /// Kills and power cuts.
    pub fn crashes(&self) -> u64 {
        self.kills + self.power_cuts
    }
}
