//! What the answers of a service stand on.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use store::{Commit, Store};

use crate::authorize::Tokens;
use crate::health::Health;
use crate::operate::Operator;

/// What the routes stand on.
#[derive(Clone)]
pub struct State {
    /// The records.
    pub store: Store,
    /// Who hands writes in.
    pub commit: Commit,
    /// Who may write.
    pub tokens: Arc<Tokens>,
    /// Who does what operators ask for.
    pub operator: Operator,
    /// Whether the service is ready.
    pub health: Health,
}

/// A path's query.
pub(crate) type Query = HashMap<String, String>;

/// A request's body as it comes.
pub(crate) trait Body: Stream<Item = Result<Self::Chunk, warp::Error>> + Send {
    type Chunk: Buf;
}

impl<B: Buf, S: Stream<Item = Result<B, warp::Error>> + Send> Body for S {
    type Chunk = B;
}
