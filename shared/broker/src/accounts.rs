//! Who may do what at the broker: an account for each collection, with a user for its service and one for its
//! administrator.

use std::fmt::Write;

use nkeys::KeyPair;

use crate::snapshots::bucket_of;
use crate::{BrokerError, stream_of, subject};

/// The keys of a collection's users: NKeys, whose seeds are secret.
pub struct Keys {
    service: KeyPair,
    administrator: KeyPair,
}

impl Keys {
    /// Makes keys from randomness.
    pub fn new() -> Self {
        Self { service: KeyPair::new_user(), administrator: KeyPair::new_user() }
    }

    /// Returns the seed of the service's key.
    ///
    /// # Errors
    /// Never: the keys have seeds.
    pub fn service_seed(&self) -> Result<String, BrokerError> {
        self.service.seed().map_err(|error| BrokerError::Refused(error.to_string()))
    }

    /// Returns the seed of the administrator's key.
    ///
    /// # Errors
    /// Never: the keys have seeds.
    pub fn administrator_seed(&self) -> Result<String, BrokerError> {
        self.administrator.seed().map_err(|error| BrokerError::Refused(error.to_string()))
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

/// Renders the accounts of these collections for the configuration of nats-server. It has public keys alone.
pub fn render_accounts<'k>(keys: impl Iterator<Item = (&'k str, &'k Keys)>) -> String {
    let mut text = "# An account for each collection's stream, which no other account sees.\naccounts {\n".to_owned();
    for (name, keys) in keys {
        let stream = &*stream_of(name);
        // It reads snapshots, and stores none: a replica that was broken into must not be what the next one begins with.
        let bucket = format!("OBJ_{}", bucket_of(name));
        let allowed = [
            subject(stream),
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.INFO.{stream}.*"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
            format!("$JS.API.STREAM.INFO.{bucket}"),
            format!("$JS.API.DIRECT.GET.{bucket}.>"),
            format!("$JS.API.CONSUMER.CREATE.{bucket}"),
            // The client makes it so after a break.
            format!("$JS.API.CONSUMER.CREATE.{bucket}.>"),
            format!("$JS.API.CONSUMER.INFO.{bucket}.*"),
            format!("$JS.API.CONSUMER.DELETE.{bucket}.*"),
            format!("$JS.FC.{bucket}.>"),
        ];
        let (service, administrator) = (keys.service.public_key(), keys.administrator.public_key());
        let _ = writeln!(
            text,
            "  \"{name}\" {{\n    jetstream: enabled\n    users: [\n      # The service publishes and reads; it makes, empties and \
             removes no stream, and stores no snapshot.\n      {{ nkey: {service}, permissions: {{ publish: {allowed:?}, subscribe: [\"_INBOX.>\"] }} }}\n      \
             # `seed streams`\n      {{ nkey: {administrator} }}\n    ]\n  }}"
        );
    }
    text + "}\n"
}
