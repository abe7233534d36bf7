//! What the simulation of transfers promises, one test for each promise.

use super::run_transfers;

/// Few, because a test build is slow: `cargo run --release -p blockyard-sim -- --transfers` plays many. Among them 7 and 32,
/// which found an image held for whom had let go, and a part left of an image that had come.
const SEEDS: [u64; 5] = [0, 1, 7, 32, 54];

#[test]
fn no_seed_breaks_a_promise_between_two_pools() {
    for seed in SEEDS {
        let violation = run_transfers(seed, false).violation;
        assert_eq!(
            violation, None,
            "cargo run --release -p blockyard-sim -- --transfers --seed {seed} --verbose"
        );
    }
}

#[test]
fn a_seed_replays_two_pools_and_their_line_exactly() {
    for seed in &SEEDS[..2] {
        let (first, second) = (run_transfers(*seed, false), run_transfers(*seed, false));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.totals, second.totals, "seed {seed}");
    }
}
