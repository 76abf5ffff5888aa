//! The text of metrics, in both formats that Prometheus reads.
//!
//! - `OpenMetrics` 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>)
//! - the text format 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>)
//!
//! They differ in the name of a counter's family, in the bounds of buckets, and in the last line.

use std::fmt::Write as _;

use super::counter::{BOUNDS_US, Times};

/// The format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The text format 0.0.4, which older servers read.
    Text,
}

impl Format {
    /// The media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows. Its name ends in `_total`.
    Counter,
    /// It grows and shrinks.
    Gauge,
    /// A histogram of seconds.
    Histogram,
}

/// Text that grows by one metric after the other.
#[derive(Debug)]
pub struct Text {
    format: Format,
    written: String,
    /// The name of the metric whose values are written now.
    name: &'static str,
}

impl Text {
    /// An empty text.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, written: String::with_capacity(16 << 10), name: "" }
    }

    /// Begins a metric. `help` is one sentence in plain ASCII.
    pub fn begin(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        debug_assert!(!help.contains(['\n', '\\']), "{help}");
        let family = match self.format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Text => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.put(format_args!("# HELP {family} {help}\n# TYPE {family} {kind}\n"));
        self.name = name;
        self
    }

    /// A metric with one value.
    pub fn one(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Into<Value>) {
        self.begin(name, kind, help).value(&[], value);
    }

    /// A value of the metric that was begun last.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> &mut Self {
        self.sample("", labels, value.into());
        self
    }

    /// The values of a histogram.
    pub fn times(&mut self, times: &Times) -> &mut Self {
        let mut sum = 0;
        for (at, bucket) in times.buckets.iter().enumerate() {
            sum += bucket;
            let bound = BOUNDS_US.get(at).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            self.sample("_bucket", &[("le", &bound)], Value::Whole(sum));
        }
        self.sample("_sum", &[], Value::Micros(times.sum));
        self.sample("_count", &[], Value::Whole(sum));
        self
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: Value) {
        self.written.push_str(self.name);
        self.written.push_str(suffix);
        for (at, (name, value)) in labels.iter().enumerate() {
            debug_assert!(!value.contains(['"', '\\', '\n']), "{value}");
            self.put(format_args!("{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' }));
        }
        if !labels.is_empty() {
            self.written.push('}');
        }
        match value {
            Value::Whole(number) => self.put(format_args!(" {number}\n")),
            Value::Real(number) => self.put(format_args!(" {number}\n")),
            Value::Micros(micros) => self.put(format_args!(" {}\n", seconds(micros))),
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        self.written.write_fmt(text).ok();
    }

    /// The whole text.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.written.push_str("# EOF\n");
        }
        self.written
    }
}

/// The value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// A number with a fraction.
    Real(f64),
    /// Microseconds, which are written as seconds.
    Micros(u64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Whole(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// Microseconds as seconds, exactly, with a point: `OpenMetrics` requires the bounds `1.0` and not `1`.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::counter::Histogram;

    #[test]
    fn both_formats_have_the_same_values_and_their_own_names() {
        let text = |format| {
            let mut text = Text::new(format);
            text.one("tidings_a_total", Kind::Counter, "What a is.", 3_u64);
            text.begin("tidings_b", Kind::Gauge, "What b is.").value(&[("x", "1"), ("y", "z")], 0.5);
            text.finish()
        };
        assert_eq!(
            text(Format::OpenMetrics),
            "# HELP tidings_a What a is.\n# TYPE tidings_a counter\ntidings_a_total 3\n# HELP tidings_b What b is.\n\
             # TYPE tidings_b gauge\ntidings_b{x=\"1\",y=\"z\"} 0.5\n# EOF\n"
        );
        assert_eq!(
            text(Format::Text),
            "# HELP tidings_a_total What a is.\n# TYPE tidings_a_total counter\ntidings_a_total 3\n\
             # HELP tidings_b What b is.\n# TYPE tidings_b gauge\ntidings_b{x=\"1\",y=\"z\"} 0.5\n"
        );
    }

    #[test]
    fn a_histogram_has_the_sum_of_all_lower_buckets_in_each() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_micros(75), 2);
        histogram.add(Duration::from_secs(20), 1);
        let mut text = Text::new(Format::Text);
        text.begin("t", Kind::Histogram, "Times.").times(&[&histogram].into_iter().collect());
        let text = text.finish();
        for line in [
            "t_bucket{le=\"0.00005\"} 0\n",
            "t_bucket{le=\"0.0001\"} 2\n",
            "t_bucket{le=\"1.0\"} 2\n",
            "t_bucket{le=\"10.0\"} 2\n",
            "t_bucket{le=\"+Inf\"} 3\nt_sum 20.00015\nt_count 3\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
