//! `blockyard image profile NAME [start|stop|forget]`.

use crate::commands::Session;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{ImageProfile, ProfileOrder};
use clap::{Args, ValueEnum};

/// Record where an image is read first, so that lazy pulls of it bring that first; without an order, show it
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    order: Option<Order>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// Record from now on
    Start,
    /// Record no more and keep it with the image
    Stop,
    /// Forget what was kept
    Forget,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let order = flags.order.map(|order| match order {
        Order::Start => ProfileOrder::Start,
        Order::Stop => ProfileOrder::Stop,
        Order::Forget => ProfileOrder::Forget,
    });
    let profile = session.client()?.image_profile(&flags.name, order)?;
    session.output.print(&profile, || text(&profile))
}

fn text(profile: &ImageProfile) -> String {
    let bytes = profile.offsets.len() as u64 * profile.run_bytes;
    let what = match (profile.recording, profile.offsets.is_empty()) {
        (true, true) => return "being recorded: nothing was read yet\n".to_owned(),
        (true, false) => "being recorded",
        (false, true) => return "nothing is recorded\n".to_owned(),
        (false, false) => "kept",
    };
    let first: Vec<String> = profile.offsets.iter().take(8).map(u64::to_string).collect();
    format!("{what}: {} in order of first use, from {}\n", human(bytes), first.join(", "))
}
