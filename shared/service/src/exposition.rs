//! Prometheus' text format, version 0.0.4. A framework for metrics would bring registries of labels, which nothing here
//! needs: the format is a few lines.

use std::fmt::{Display, Write as _};

use store::figures::Spread;

/// The format's media type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text under construction.
#[derive(Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Begins the metric `name`. Its samples follow.
    pub(crate) fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Adds a sample of the metric that was begun last.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0 += name;
        for (nth, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if nth == 0 { "{" } else { "," });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// Adds a metric with one sample and no labels.
    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Adds the samples of a histogram. `per_unit` of its values make one of the metric's.
    pub(crate) fn spread(&mut self, name: &str, labels: &[(&str, &str)], spread: &Spread, per_unit: f64) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in &spread.counts {
            below += count;
            let bound = (*bound as f64 / per_unit).to_string();
            self.sample(&bucket, &[labels, &[("le", &bound)]].concat(), below);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), spread.count());
        self.sample(&format!("{name}_sum"), labels, spread.sum as f64 / per_unit);
        self.sample(&format!("{name}_count"), labels, spread.count());
    }

    /// Returns the text.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_labels_cannot_break_a_line() {
        let mut text = Exposition::default();
        text.begin("took_seconds", "histogram", "Times.");
        let spread = Spread { counts: vec![(50, 2), (1_000, 0), (2_500, 3)], above: 1, sum: 12_000_000 };
        text.spread("took_seconds", &[("of", "a\"b\\c\nd")], &spread, 1e6);
        text.one("damaged", "gauge", "Damage.", 7);
        let expected = r#"# HELP took_seconds Times.
# TYPE took_seconds histogram
took_seconds_bucket{of="a\"b\\c\nd",le="0.00005"} 2
took_seconds_bucket{of="a\"b\\c\nd",le="0.001"} 2
took_seconds_bucket{of="a\"b\\c\nd",le="0.0025"} 5
took_seconds_bucket{of="a\"b\\c\nd",le="+Inf"} 6
took_seconds_sum{of="a\"b\\c\nd"} 12
took_seconds_count{of="a\"b\\c\nd"} 6
# HELP damaged Damage.
# TYPE damaged gauge
damaged 7
"#;
        assert_eq!(text.into_text(), expected);
    }
}
