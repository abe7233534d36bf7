//! What moving an image between pools needs of the engine: from maps and hashes to references. It knows no
//! network: lists of hashes go in and out, and bytes come in.
//!
//! The source tells summaries and hashes of an image and reads no data for it (`source.rs`). The target looks
//! them up ([`Lookup`]): whole extents by their summary, clusters by one pass over its hash table. A
//! [`Receive`] fills a hidden image: what was found becomes a copy-on-write reference (`take.rs`), what is
//! missing is written like any write, after its bytes were compared with the hash. It is as invisible as an
//! import until it is revealed, and leaves nothing if it is dropped.
//!
//! *What was looked up is a hint.* When the reference is made, under the lock, the cluster must be shown as
//! data by some extent, trusted, unwatched by no one's write, and of the very hash (I6, I8).

mod beside;
mod hashes;
mod lazily;
mod left;
mod lookup;
mod receive;
mod sort;
mod source;
mod take;
mod verify;

pub use beside::{Reader, Writer};
pub use hashes::ExtentHashes;
pub use lazily::Listed;
pub use left::LeftImage;
pub use lookup::{Lookup, Working};
pub use receive::{FoundHere, Missing, Receive};
