//! Fuzzes the reader of untrusted files: it returns on any input, and what it accepts, serde_json accepts with the same
//! meaning.

#![no_main]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use seed::plan::Plan;
use seed::rejects::Rejects;
use seed::source::Source;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed");
    let plan = Plan::workspace();
    let read = || -> Result<BTreeMap<&str, String>, seed::error::Error> {
        let mut source = Source::new(path, &plan, Box::new(Cursor::new(bytes.to_vec())));
        let mut read = BTreeMap::new();
        while let Some(batch) = source.next_batch()? {
            let text: &mut String = read.entry(batch.collection.name()).or_default();
            for records in Rejects::refuse(path).sift(&batch)? {
                let comma = if text.is_empty() || records.text().is_empty() { "" } else { "," };
                *text += comma;
                *text += records.text();
            }
        }
        Ok(read)
    };
    match read() {
        Err(error) => assert_eq!(error.exit_code(), 3, "{error}"),
        Ok(read) => {
            let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            // We accept numbers beyond a float; serde_json refuses them. Nothing else differs.
            let theirs = match serde_json::from_slice::<Value>(text) {
                Ok(value) => value,
                Err(error) => return assert!(error.to_string().contains("number out of range"), "{error}"),
            };
            for (name, records) in read {
                let ours: Value = serde_json::from_str(&format!("[{records}]")).expect("canonical text is JSON");
                assert_eq!(ours, theirs[name]);
            }
        }
    }
});
