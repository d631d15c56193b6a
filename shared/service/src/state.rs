//! The state that a service's handlers share.

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use store::{Commit, Store};

use crate::authorize::Writers;
use crate::health::Health;
use crate::operate::Operator;
use crate::replica::Replica;

/// The state that the routes share.
#[derive(Clone)]
pub struct State {
    /// The records.
    pub store: Store,
    /// Hands writes to the committer.
    pub commit: Commit,
    /// Those who may write.
    pub writers: Arc<Writers>,
    /// Hands writes to the stream of a replicated service.
    pub replica: Option<Replica>,
    /// Runs backups and scrubs.
    pub operator: Operator,
    /// The service's readiness.
    pub health: Health,
}

/// A request's body as it arrives.
pub(crate) trait Body: Stream<Item = Result<Self::Chunk, warp::Error>> + Send {
    type Chunk: Buf;
}

impl<B: Buf, S: Stream<Item = Result<B, warp::Error>> + Send> Body for S {
    type Chunk = B;
}
