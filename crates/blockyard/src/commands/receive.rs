//! `blockyard receive` and `blockyard send`: the far end of a push, or a pull, through a pipe.

use crate::commands::{Session, via};
use anyhow::Result;
use blockyard_api::{AnswerPipe, PipeDirection};
use clap::Args;

/// Let the daemon receive an image through standard input and output: what `push --via` starts on the other host
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Only images of this name: a name, or a pattern with * and ?. May be given more than once
    #[arg(long, value_name = "PATTERN")]
    images: Vec<String>,
}

/// Let the daemon send an image through standard input and output: what `pull --via` starts on the other host
#[derive(Debug, Args)]
pub(crate) struct SendFlags {
    /// Only images of this name: a name, or a pattern with * and ?. May be given more than once
    #[arg(long, value_name = "PATTERN")]
    images: Vec<String>,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    answer(session, PipeDirection::Push, &flags.images)
}

pub(crate) fn run_send(flags: &SendFlags, session: &Session) -> Result<()> {
    answer(session, PipeDirection::Pull, &flags.images)
}

fn answer(session: &Session, direction: PipeDirection, images: &[String]) -> Result<()> {
    let request = AnswerPipe { direction, images: images.to_vec() };
    let pipe = session.client()?.answer_pipe(&request)?;
    via::pass_on_here(pipe)
}
