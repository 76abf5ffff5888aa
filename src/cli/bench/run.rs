//! The modes: what each does in which order, and what it measures.

use std::time::Duration;

use super::{
    load::Load,
    plan::{Amount, Mode, Plan},
    process::{Process, Usage},
    progress::Progress,
    report::{ConnectResult, DeliveryCpu, DeliveryResult, IdleResult, PublishResult, Report, ServerUsage},
};

/// The pause after connecting, before anything is measured. The server may still have work to do for the new
/// connections.
const SETTLE: Duration = Duration::from_millis(500);
/// How long to wait at the end for repeated events, which should not come.
const REPEATS_WAIT: Duration = Duration::from_millis(300);

/// A run in progress.
struct Run<'a> {
    load: Load<'a>,
    /// The server, if its process id is known.
    server: Option<&'a Process>,
    /// The load generator.
    own: Process,
    report: Report,
    /// What the server used.
    costs: ServerUsage,
}

/// A point in time, and the CPU time that was used up to it.
#[derive(Clone, Copy)]
struct Mark {
    /// In nanoseconds since the run began.
    at: u64,
    /// Of the server.
    usage: Usage,
    /// Of the load generator.
    own: Usage,
}

/// Carries out `plan`.
pub fn run(plan: &Plan, server: Option<&Process>) -> Result<Report, String> {
    let load = Load::new(plan, Progress::new())?;
    let report = Report {
        url: plan.target.to_string(),
        mode: plan.mode.name(),
        subscribers: plan.subscribers,
        topics: plan.topics,
        publishers: plan.publishers,
        event_bytes: plan.sizes.to_string(),
        ..Report::default()
    };
    let mut run = Run { load, server, own: Process::own(), report, costs: ServerUsage::default() };
    match plan.mode {
        Mode::Live => run.live(plan)?,
        Mode::Replay => run.replay(plan)?,
        Mode::Storm => run.storm(plan)?,
        Mode::Idle(time) => run.idle(time)?,
    }
    run.load.run_for("looking for repeated events", REPEATS_WAIT)?;
    Ok(run.finish())
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replay => "replay",
            Self::Storm => "storm",
            Self::Idle(_) => "idle",
        }
    }
}

impl Run<'_> {
    fn live(&mut self, plan: &Plan) -> Result<(), String> {
        self.connect()?;
        let begun = self.mark();
        self.load.publish(plan.amount)?;
        self.report_published();
        self.report_delivered(begun);
        Ok(())
    }

    fn replay(&mut self, plan: &Plan) -> Result<(), String> {
        self.load.publish(plan.amount)?;
        self.report_published();
        let (begun, resident) = (self.mark(), self.resident());
        self.load.connect()?;
        self.report_connected(begun)?;
        self.load.deliver()?;
        self.report_delivered(begun);
        self.report_memory(resident);
        Ok(())
    }

    fn storm(&mut self, plan: &Plan) -> Result<(), String> {
        let Amount::Messages(messages) = plan.amount else { return Err("--storm needs --messages".into()) };
        let before = Plan::before_storm(messages);
        self.connect()?;
        self.load.publish(Amount::Messages(before))?;
        self.load.subscribers.disconnect_all();
        self.load.publish(Amount::Messages(messages - before))?;
        self.report_published();
        self.load.run_for("disconnected", SETTLE)?;
        self.load.shared.tally.reset_deliveries();
        let begun = self.mark();
        self.load.connect()?;
        self.load.deliver()?;
        self.costs.connect_cpu_us = self.cpu_each(begun, self.load.subscribers.open);
        let time = self.load.shared.tally.last_progress.saturating_sub(begun.at);
        self.report.resumed = Some(ConnectResult::new(self.load.subscribers.open, Duration::from_nanos(time)));
        if messages > before {
            self.report_delivered(begun);
        }
        Ok(())
    }

    fn idle(&mut self, time: Duration) -> Result<(), String> {
        self.connect()?;
        let tally = &self.load.shared.tally;
        let (begun, blocks, bytes) = (self.mark(), tally.quiet_blocks, tally.bytes);
        self.load.run_for("idle", time)?;
        let now = self.mark();
        self.report_generator_cpu(begun, now);
        let used = (now.usage - begun.usage).total();
        self.costs.idle_cpu_percent = Some(used.as_secs_f64() / time.as_secs_f64() * 100.0);
        let tally = &self.load.shared.tally;
        self.report.idle = Some(IdleResult {
            seconds: time.as_secs_f64(),
            blocks: tally.quiet_blocks - blocks,
            bytes: tally.bytes - bytes,
            still_connected: self.load.subscribers.open,
        });
        Ok(())
    }

    /// Connects all subscribers, and measures it.
    fn connect(&mut self) -> Result<(), String> {
        let (begun, resident) = (self.mark(), self.resident());
        self.load.connect()?;
        self.report_connected(begun)?;
        self.load.run_for("settling", SETTLE)?;
        self.report_memory(resident);
        Ok(())
    }

    /// Reports the connects since `begun`. It is an error if no subscriber is connected.
    fn report_connected(&mut self, begun: Mark) -> Result<(), String> {
        let open = self.load.subscribers.open;
        if open == 0 {
            let errors = &self.load.shared.tally.errors;
            let reasons: Vec<_> = errors.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
            return Err(format!("no subscriber could connect: {}", reasons.join(", ")));
        }
        let now = self.mark();
        self.costs.connect_cpu_us = self.cpu_each(begun, open);
        self.report.connected = ConnectResult::new(open, Duration::from_nanos(now.at - begun.at));
        Ok(())
    }

    /// Reports what was published.
    fn report_published(&mut self) {
        let tally = &self.load.shared.tally;
        let time = tally.first_sent.map_or(0, |first| tally.last_answered.saturating_sub(first));
        let time = Duration::from_nanos(time);
        self.report.published = Some(PublishResult::new(tally.acknowledged, tally.sent, time, &tally.answers));
    }

    /// Reports what was delivered since `begun`.
    fn report_delivered(&mut self, begun: Mark) {
        let now = self.mark();
        self.report_generator_cpu(begun, now);
        let tally = &self.load.shared.tally;
        let time = Duration::from_nanos(tally.last_delivered.saturating_sub(begun.at));
        self.report.delivered = Some(DeliveryResult::new(tally.delivered, time, &tally.latency));
        let used = now.usage - begun.usage;
        let each = |time: Duration| if tally.delivered == 0 { 0.0 } else { per(time, tally.delivered) };
        self.costs.delivery =
            Some(DeliveryCpu { total_us: each(used.total()), user_us: each(used.user), system_us: each(used.system) });
    }

    /// Reports how much memory the server uses for each subscriber. Before they connected, it used `resident` bytes.
    fn report_memory(&mut self, resident: u64) {
        let grown = self.resident().saturating_sub(resident);
        let open = u64::try_from(self.load.subscribers.open).unwrap_or(u64::MAX).max(1);
        self.costs.resident_bytes_per_subscriber = super::report::ratio(grown, open);
    }

    /// Reports how much of its core the load generator used between two marks.
    fn report_generator_cpu(&mut self, begun: Mark, now: Mark) {
        let time = Duration::from_nanos(now.at.saturating_sub(begun.at).max(1));
        let used = (now.own - begun.own).total();
        let percent = used.as_secs_f64() / time.as_secs_f64() * 100.0;
        self.report.generator_cpu_percent = (!self.load.shared.plan.spin).then_some(percent);
    }

    fn mark(&self) -> Mark {
        let usage = self.server.map(Process::usage).unwrap_or_default();
        Mark { at: self.load.shared.clock.now(), usage, own: self.own.usage() }
    }

    fn resident(&self) -> u64 {
        self.server.map(Process::resident).unwrap_or_default()
    }

    /// The server's CPU time since `begun` in microseconds, divided by `n`.
    fn cpu_each(&self, begun: Mark, n: usize) -> f64 {
        per((self.mark().usage - begun.usage).total(), u64::try_from(n).unwrap_or(u64::MAX).max(1))
    }

    fn finish(mut self) -> Report {
        self.costs.resident_bytes = self.resident();
        let Load { shared, subscribers, .. } = &self.load;
        let Self { mut report, .. } = self;
        report.lost = subscribers.lost(&shared.topics);
        (report.repeated, report.out_of_order) = (shared.tally.repeated, shared.tally.out_of_order);
        report.errors.clone_from(&shared.tally.errors);
        report.server = self.server.map(|_| self.costs.clone());
        report
    }
}

/// `time` in microseconds, divided by `n`.
fn per(time: Duration, n: u64) -> f64 {
    time.as_secs_f64() * 1e6 / Duration::from_secs(n).as_secs_f64()
}
