//! Tests of the store alone, on a directory in memory.

mod basics;
mod damage;
mod faults;
mod memory;
mod model;
mod random;
