//! What a test's thread counts.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Every metric of this thread, while it lives.
pub struct Counted {
    snapshotter: Snapshotter,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Counted {
    /// The recorder is leaked: it must outlive its guard, and a test is short.
    pub fn begin() -> Self {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::new(DebuggingRecorder::new()));
        Self { snapshotter: recorder.snapshotter(), _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// All of them by `name label=value,label=value`. All begin anew, gauges too.
    pub fn all(&self) -> Metrics {
        let mut all = Metrics::default();
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let name = format!("{} {}", key.name(), labels.join(",")).trim_end().to_owned();
            match value {
                DebugValue::Counter(count) => drop(all.counters.insert(name, count)),
                DebugValue::Gauge(level) => drop(all.gauges.insert(name, level.0)),
                DebugValue::Histogram(values) => {
                    drop(all.histograms.insert(name, values.into_iter().map(|value| value.0).collect()));
                }
            }
        }
        all
    }
}

impl Metrics {
    /// These, and what was counted after them.
    pub fn and(mut self, later: Self) -> Self {
        for (name, count) in later.counters {
            *self.counters.entry(name).or_default() += count;
        }
        for (name, values) in later.histograms {
            self.histograms.entry(name).or_default().extend(values);
        }
        self.gauges.extend(later.gauges);
        self
    }
}

#[derive(Debug, Default)]
pub struct Metrics {
    pub counters: BTreeMap<String, u64>,
    pub gauges: BTreeMap<String, f64>,
    pub histograms: BTreeMap<String, Vec<f64>>,
}
