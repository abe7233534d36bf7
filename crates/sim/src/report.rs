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

impl Count {
    const ALL: [(Count, &str); 39] = [
        (Count::Operations, "operations"),
        (Count::Kills, "kills"),
        (Count::PowerCuts, "power cuts"),
        (Count::CrashesWhileOpening, "crashes while opening"),
        (Count::CleanShutdowns, "clean shutdowns"),
        (Count::TornWrites, "torn writes"),
        (Count::LostWrites, "lost writes"),
        (Count::InjectedFailures, "injected failures"),
        (Count::FailedSyncs, "failed syncs"),
        (Count::Creations, "creations"),
        (Count::Snapshots, "snapshots"),
        (Count::Clones, "clones"),
        (Count::Removals, "removals"),
        (Count::Renames, "renames"),
        (Count::Resizes, "resizes"),
        (Count::Imports, "imports"),
        (Count::NoSpace, "ENOSPC"),
        (Count::ClustersReused, "reused freed clusters"),
        (Count::IntentsCleared, "cleared intents"),
        (Count::LogWraps, "log wraps"),
        (Count::HashesChecked, "hashes checked"),
        (Count::SectorsChecked, "sectors checked"),
        (Count::Checks, "checks of closed pools"),
        (Count::Reclaims, "reclaims"),
        (Count::ClustersReclaimed, "reclaimed clusters"),
        (Count::Shortages, "reclaims for want of space"),
        (Count::RefusalsJudged, "refusals for want of space judged"),
        (Count::SpilledSorts, "sorts by way of files"),
        (Count::IndexesMade, "hash indexes made"),
        (Count::ReferencesWritten, "written clusters that became references"),
        (Count::Rots, "clusters that rotted"),
        (Count::Healed, "clusters healed"),
        (Count::Receives, "images received"),
        (Count::ExtentsTaken, "extents taken whole"),
        (Count::ClustersTaken, "clusters taken by their hash"),
        (Count::ClustersReceived, "clusters received"),
        (Count::LazyReceives, "images shown before they were there"),
        (Count::ClustersFetched, "clusters fetched"),
        (Count::LazyFilled, "lazy images filled"),
    ];

    /// What happens when images move between two pools.
    const OF_TRANSFERS: [(Count, &str); 34] = [
        (Count::Operations, "operations"),
        (Count::Kills, "kills"),
        (Count::PowerCuts, "power cuts"),
        (Count::CleanShutdowns, "clean shutdowns"),
        (Count::TornWrites, "torn writes"),
        (Count::LostWrites, "lost writes"),
        (Count::InjectedFailures, "injected failures"),
        (Count::FailedSyncs, "failed syncs"),
        (Count::Creations, "creations"),
        (Count::Removals, "removals"),
        (Count::HashesChecked, "hashes checked"),
        (Count::SectorsChecked, "sectors checked"),
        (Count::Checks, "checks of closed pools"),
        (Count::Messages, "messages that crossed"),
        (Count::MessagesLate, "messages that were late"),
        (Count::MessagesLost, "messages that were lost"),
        (Count::MessagesChanged, "messages of which a bit flipped"),
        (Count::ClustersChanged, "of these, clusters"),
        (Count::LinesCut, "lines that were cut"),
        (Count::Pushes, "pushes done"),
        (Count::Pulls, "pulls done"),
        (Count::LazyPulls, "lazy pulls done"),
        (Count::TransfersCut, "transfers cut off"),
        (Count::Continued, "pushes that went on where they were cut off"),
        (Count::TransfersResumed, "transfers that went on after a crash"),
        (Count::TransfersFailed, "transfers that failed"),
        (Count::TransfersCancelled, "transfers cancelled"),
        (Count::PartsLeft, "parts left at the end"),
        (Count::Fetches, "fetches begun"),
        (Count::ClustersFetched, "clusters fetched"),
        (Count::LazyFilled, "lazy images filled"),
        (Count::LazyFailures, "requests that the origin failed"),
        (Count::Holds, "snapshots held for dependants"),
        (Count::Releases, "snapshots let go"),
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

    fn told(&self) -> &'static [(Count, &'static str)] {
        match self.play {
            Play::Engine => &Count::ALL,
            Play::Transfers => &Count::OF_TRANSFERS,
        }
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
        let zero = |(count, _): &&(Count, _)| self.get(*count) == 0;
        self.told().iter().filter(zero).map(|(_, name)| *name).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told()
            .iter()
            .try_for_each(|(count, name)| writeln!(f, "{:>12} {name}", self.get(*count)))
    }
}
