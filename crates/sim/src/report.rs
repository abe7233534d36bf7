//! Counts of what happened in a run, and their sum over many: a run in which nothing happened
//! proves nothing.

use crate::fault::Counters;
use std::collections::BTreeMap;
use std::fmt;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    Operations,
    Kills,
    PowerCuts,
    CrashesWhileOpening,
    CleanShutdowns,
    TornWrites,
    LostWrites,
    InjectedFailures,
    FailedSyncs,
    Creations,
    Snapshots,
    Clones,
    Removals,
    Renames,
    Resizes,
    Imports,
    NoSpace,
    ClustersReused,
    IntentsCleared,
    LogWraps,
    HashesChecked,
    SectorsChecked,
    Checks,
    Reclaims,
    ClustersReclaimed,
    Shortages,
    SpilledSorts,
    IndexesMade,
    ReferencesWritten,
    Rots,
    Healed,
    RefusalsJudged,
    Receives,
    ExtentsTaken,
    ClustersTaken,
    ClustersProved,
    ClustersReceived,
    LazyReceives,
    ClustersFetched,
    LazyFilled,
    Messages,
    MessagesLate,
    MessagesLost,
    MessagesChanged,
    ClustersChanged,
    LinesCut,
    Pushes,
    Pulls,
    LazyPulls,
    TransfersCut,
    Continued,
    TransfersResumed,
    TransfersFailed,
    TransfersCancelled,
    Fetches,
    Holds,
    Releases,
    PartsLeft,
    LazyFailures,
}

/// The plays in which something is expected to happen.
const ENGINE: &[Play] = &[Play::Engine];
const TRANSFERS: &[Play] = &[Play::Transfers];
const BOTH: &[Play] = &[Play::Engine, Play::Transfers];

impl Count {
    const ALL: [(Count, &str, &[Play]); 59] = [
        (Count::Operations, "operations", BOTH),
        (Count::Kills, "kills", BOTH),
        (Count::PowerCuts, "power cuts", BOTH),
        (Count::CrashesWhileOpening, "crashes while opening", ENGINE),
        (Count::CleanShutdowns, "clean shutdowns", BOTH),
        (Count::TornWrites, "torn writes", BOTH),
        (Count::LostWrites, "lost writes", BOTH),
        (Count::InjectedFailures, "injected failures", BOTH),
        (Count::FailedSyncs, "failed syncs", BOTH),
        (Count::Creations, "creations", BOTH),
        (Count::Snapshots, "snapshots", ENGINE),
        (Count::Clones, "clones", ENGINE),
        (Count::Removals, "removals", BOTH),
        (Count::Renames, "renames", ENGINE),
        (Count::Resizes, "resizes", ENGINE),
        (Count::Imports, "imports", ENGINE),
        (Count::NoSpace, "ENOSPC", ENGINE),
        (Count::ClustersReused, "reused freed clusters", ENGINE),
        (Count::IntentsCleared, "cleared intents", ENGINE),
        (Count::LogWraps, "log wraps", ENGINE),
        (Count::HashesChecked, "hashes checked", BOTH),
        (Count::SectorsChecked, "sectors checked", BOTH),
        (Count::Checks, "checks of closed pools", BOTH),
        (Count::Reclaims, "reclaims", ENGINE),
        (Count::ClustersReclaimed, "reclaimed clusters", ENGINE),
        (Count::Shortages, "reclaims for want of space", ENGINE),
        (Count::RefusalsJudged, "refusals for want of space judged", ENGINE),
        (Count::SpilledSorts, "sorts by way of files", ENGINE),
        (Count::IndexesMade, "hash indexes made", ENGINE),
        (Count::ReferencesWritten, "written clusters that became references", ENGINE),
        (Count::Rots, "clusters that rotted", ENGINE),
        (Count::Healed, "clusters healed", ENGINE),
        (Count::Receives, "images received", ENGINE),
        (Count::ExtentsTaken, "extents taken whole", ENGINE),
        (Count::ClustersTaken, "clusters taken by their hash", ENGINE),
        (Count::ClustersProved, "clusters taken by their hash and a proof", ENGINE),
        (Count::ClustersReceived, "clusters received", ENGINE),
        (Count::LazyReceives, "images shown before they were there", ENGINE),
        (Count::ClustersFetched, "clusters fetched", BOTH),
        (Count::LazyFilled, "lazy images filled", BOTH),
        (Count::Messages, "messages that crossed", TRANSFERS),
        (Count::MessagesLate, "messages that were late", TRANSFERS),
        (Count::MessagesLost, "messages that were lost", TRANSFERS),
        (Count::MessagesChanged, "messages of which a bit flipped", TRANSFERS),
        (Count::ClustersChanged, "of these, clusters", TRANSFERS),
        (Count::LinesCut, "lines that were cut", TRANSFERS),
        (Count::Pushes, "pushes done", TRANSFERS),
        (Count::Pulls, "pulls done", TRANSFERS),
        (Count::LazyPulls, "lazy pulls done", TRANSFERS),
        (Count::TransfersCut, "transfers cut off", TRANSFERS),
        (Count::Continued, "pushes that went on where they were cut off", TRANSFERS),
        (Count::TransfersResumed, "transfers that went on after a crash", TRANSFERS),
        (Count::TransfersFailed, "transfers that failed", TRANSFERS),
        (Count::TransfersCancelled, "transfers cancelled", TRANSFERS),
        (Count::PartsLeft, "parts left at the end", TRANSFERS),
        (Count::Fetches, "fetches begun", TRANSFERS),
        (Count::LazyFailures, "requests that the origin failed", TRANSFERS),
        (Count::Holds, "snapshots held for dependants", TRANSFERS),
        (Count::Releases, "snapshots let go", TRANSFERS),
    ];
}

/// What a run plays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Play {
    /// One pool and its clients.
    #[default]
    Engine,
    /// Images that move between two pools.
    Transfers,
}

/// What one or more runs did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    play: Play,
    counts: BTreeMap<Count, u64>,
}

impl Totals {
    pub fn of(play: Play) -> Totals {
        Totals { play, ..Totals::default() }
    }

    fn told(&self) -> impl Iterator<Item = (Count, &'static str)> {
        let play = self.play;
        let of_play = Count::ALL.into_iter().filter(move |(_, _, plays)| plays.contains(&play));
        of_play.map(|(count, name, _)| (count, name))
    }

    pub fn get(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    pub(crate) fn note(&mut self, count: Count, times: u64) {
        *self.counts.entry(count).or_default() += times;
    }

    pub(crate) fn note_world(&mut self, counters: &Counters) {
        self.note(Count::Kills, counters.kills);
        self.note(Count::PowerCuts, counters.power_cuts);
        self.note(Count::TornWrites, counters.torn_writes);
        self.note(Count::LostWrites, counters.lost_writes);
        self.note(Count::InjectedFailures, counters.injected_failures);
        self.note(Count::FailedSyncs, counters.failed_syncs);
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Totals) {
        for (count, times) in &other.counts {
            self.note(*count, *times);
        }
    }

    /// Names of counts that are zero; over many seeds there must be none.
    pub fn missing(&self) -> Vec<&'static str> {
        let zero = |(count, _): &(Count, _)| self.get(*count) == 0;
        self.told().filter(zero).map(|(_, name)| name).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told().try_for_each(|(count, name)| writeln!(f, "{:>12} {name}", self.get(count)))
    }
}
