//! What `run` promises, one test for each promise.

use super::run_seed;

/// Few, because a test build is slow: `cargo run --release -p blockyard-sim` plays many.
const SEEDS: u64 = 12;

#[test]
fn no_seed_breaks_a_promise() {
    for seed in 0..SEEDS {
        let violation = run_seed(seed, false).violation;
        assert_eq!(
            violation, None,
            "cargo run --release -p blockyard-sim -- --seed {seed} --verbose"
        );
    }
}

#[test]
fn a_seed_replays_a_run_exactly() {
    for seed in 0..SEEDS / 3 {
        let (first, second) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.totals, second.totals, "seed {seed}");
    }
}
