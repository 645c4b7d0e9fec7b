//! Descriptors that come along with an answer of the keeper.

use std::os::fd::OwnedFd;

use super::super::{Caught, OwnNetwork, Pipes, host};

/// Our ends of the pipes as they come along with a packet.
pub(super) fn pipes(descriptors: Vec<OwnedFd>, with_stdin: bool) -> Option<Pipes> {
    let mut descriptors = descriptors.into_iter();
    let stdin = if with_stdin {
        descriptors.next()?
    } else {
        host::closed_pipe_end().ok()?
    };
    Some(Pipes {
        stdin,
        stdout: descriptors.next()?,
        stderr: descriptors.next()?,
    })
}

/// Takes the sockets off the end of what came along, where all of them are there. `None`: no network of its own.
pub(super) fn own_network(
    descriptors: &mut Vec<OwnedFd>,
    caught: Option<usize>,
) -> Option<OwnNetwork> {
    Some(OwnNetwork {
        caught: caught_sockets(descriptors, caught?),
    })
}

fn caught_sockets(descriptors: &mut Vec<OwnedFd>, count: usize) -> Option<Caught> {
    let at = descriptors.len().checked_sub(count)?;
    let mut sockets = descriptors.split_off(at).into_iter();
    Some(Caught {
        dns: sockets.next()?.into(),
        listeners: sockets.map(Into::into).collect(),
    })
}
