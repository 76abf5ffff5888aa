//! The modes: what each does in which order, and what it measures.

use std::time::Duration;

use super::{
    load::Load,
    plan::Plan,
    process::{Process, Usage},
    report::{ConnectResult, DeliveryCpu, DeliveryResult, IdleResult, PublishResult, Report, ServerUsage},
    tally::{ratio, wide},
};

/// The pause after connecting or disconnecting, before anything else is measured: the server may still have work to do
/// for the connections.
const SETTLE: Duration = Duration::from_millis(500);
/// How long to wait at the end for repeated events, which should not come.
const REPEATS_WAIT: Duration = Duration::from_millis(300);

/// A run in progress.
struct Run<'a> {
    load: Load<'a>,
    /// The server, if its process id is known.
    server: Option<&'a Process>,
    report: Report,
    /// What the server used. It is a part of the report if `server` is known.
    costs: ServerUsage,
}

/// Times at one moment ([`Run::times`]), or their differences between two moments ([`Run::times_since`]).
#[derive(Clone, Copy)]
struct Times {
    /// The time since the run began.
    nanos: u64,
    /// The CPU time that the server has used since it was started.
    server: Usage,
    /// The CPU time that this process has used since it was started.
    generator: Usage,
}

/// Carries out `plan`.
pub fn run(plan: &Plan, server: Option<&Process>) -> Result<Report, String> {
    let (least, most) = (plan.sizes.start(), plan.sizes.end());
    let report = Report {
        url: plan.url.to_string(),
        subscribers: plan.subscribers,
        topics: plan.topics,
        publishers: plan.publishers,
        event_bytes: if least == most { least.to_string() } else { format!("{least} to {most}") },
        ..Report::default()
    };
    let (load, costs) = (Load::new(plan)?, ServerUsage::default());
    let mut run = Run { load, server, report, costs };
    if let Some(time) = plan.idle {
        run.idle(time)?;
    } else if plan.replay {
        run.replay(plan)?;
    } else if plan.storm {
        run.storm(plan)?;
    } else {
        run.live(plan)?;
    }
    run.load.run_for("looking for repeated events", REPEATS_WAIT)?;
    Ok(run.finish())
}

impl Run<'_> {
    /// Subscribes, then publishes.
    fn live(&mut self, plan: &Plan) -> Result<(), String> {
        self.report.mode = "live";
        self.connect()?;
        let begun = self.times();
        self.load.publish(plan.messages)?;
        self.report_published();
        self.report_delivered(begun);
        Ok(())
    }

    /// Publishes, then subscribes from the beginning.
    fn replay(&mut self, plan: &Plan) -> Result<(), String> {
        self.report.mode = "replay";
        self.load.publish(plan.messages)?;
        self.report_published();
        let (begun, resident) = (self.times(), self.resident());
        self.load.connect()?;
        self.report_connected(begun)?;
        self.load.await_deliveries()?;
        self.report_delivered(begun);
        self.report_memory(resident);
        Ok(())
    }

    /// Disconnects all subscribers, and lets them resume at the same time.
    fn storm(&mut self, plan: &Plan) -> Result<(), String> {
        self.report.mode = "storm";
        let while_connected = plan.messages.div_ceil(2);
        let while_disconnected = plan.messages - while_connected;
        self.connect()?;
        self.load.publish(while_connected)?;
        self.load.subscribers.disconnect_all();
        self.load.publish(while_disconnected)?;
        self.report_published();
        self.load.run_for("disconnected", SETTLE)?;
        self.load.shared.tally.reset_deliveries();
        let begun = self.times();
        self.load.connect()?;
        self.load.await_deliveries()?;
        let open = self.load.subscribers.open;
        let used = self.times_since(begun);
        // This replaces the cost of the first connects: a storm is about those that resume.
        self.costs.connect_cpu_us = micros_each(used.server.total(), wide(open));
        self.report_generator_cpu(used);
        // The subscribers have resumed when the last bytes arrive. The wait for lost events after that is not counted.
        let time = self.load.shared.tally.last_progress.saturating_sub(begun.nanos);
        self.report.resumed = Some(ConnectResult::new(open, time));
        if while_disconnected > 0 {
            self.report_delivered(begun);
        }
        Ok(())
    }

    /// Subscribes, and publishes nothing for this time.
    fn idle(&mut self, time: Duration) -> Result<(), String> {
        self.report.mode = "idle";
        self.connect()?;
        let tally = &self.load.shared.tally;
        let (begun, blocks, bytes) = (self.times(), tally.other_blocks, tally.bytes);
        self.load.run_for("idle", time)?;
        let used = self.times_since(begun);
        self.report_generator_cpu(used);
        self.costs.idle_cpu_percent = Some(ratio(used.server.total(), used.nanos) * 100.0);
        let tally = &self.load.shared.tally;
        self.report.idle = Some(IdleResult {
            seconds: time.as_secs_f64(),
            blocks: tally.other_blocks - blocks,
            bytes: tally.bytes - bytes,
            still_connected: self.load.subscribers.open,
        });
        Ok(())
    }

    /// Connects all subscribers, and measures it.
    fn connect(&mut self) -> Result<(), String> {
        let (begun, resident) = (self.times(), self.resident());
        self.load.connect()?;
        self.report_connected(begun)?;
        self.load.run_for("settling", SETTLE)?;
        self.report_memory(resident);
        Ok(())
    }

    /// Reports the connects since `begun`. It is an error if no subscriber is connected.
    fn report_connected(&mut self, begun: Times) -> Result<(), String> {
        let open = self.load.subscribers.open;
        if open == 0 {
            let errors = &self.load.shared.tally.errors;
            let reasons: Vec<_> = errors.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
            return Err(format!("no subscriber could connect: {}", reasons.join(", ")));
        }
        let used = self.times_since(begun);
        self.costs.connect_cpu_us = micros_each(used.server.total(), wide(open));
        self.report.connected = ConnectResult::new(open, used.nanos);
        Ok(())
    }

    fn report_published(&mut self) {
        let tally = &self.load.shared.tally;
        let time = tally.first_sent.map_or(0, |first| tally.last_answered.saturating_sub(first));
        self.report.published = Some(PublishResult::new(tally.acknowledged, tally.sent, time, &tally.answer_times));
    }

    /// Reports what was delivered since `begun`.
    fn report_delivered(&mut self, begun: Times) {
        let used = self.times_since(begun);
        self.report_generator_cpu(used);
        let tally = &self.load.shared.tally;
        let time = tally.last_delivered.saturating_sub(begun.nanos);
        self.report.delivered = Some(DeliveryResult::new(tally.delivered, time, &tally.latency));
        let Usage { user, system } = used.server;
        let [total_us, user_us, system_us] =
            [user + system, user, system].map(|nanos| micros_each(nanos, tally.delivered));
        self.costs.delivery = Some(DeliveryCpu { total_us, user_us, system_us });
    }

    /// Reports how much memory the server uses for each subscriber. Before they connected, it used `before` bytes.
    fn report_memory(&mut self, before: u64) {
        let grown = self.resident().saturating_sub(before);
        self.costs.resident_bytes_per_subscriber = ratio(grown, wide(self.load.subscribers.open));
    }

    /// Reports how much of its core the load generator used.
    fn report_generator_cpu(&mut self, used: Times) {
        let percent = ratio(used.generator.total(), used.nanos) * 100.0;
        self.report.generator_cpu_percent = (!self.load.shared.plan.spin).then_some(percent);
    }

    /// The times now.
    fn times(&self) -> Times {
        let server = self.server.map(Process::usage).unwrap_or_default();
        Times { nanos: self.load.shared.now(), server, generator: Process::own().usage() }
    }

    /// The differences to the times at `begun`.
    fn times_since(&self, begun: Times) -> Times {
        let now = self.times();
        Times {
            nanos: now.nanos - begun.nanos,
            server: now.server.since(begun.server),
            generator: now.generator.since(begun.generator),
        }
    }

    /// The server's resident memory in bytes.
    fn resident(&self) -> u64 {
        self.server.map(Process::resident).unwrap_or_default()
    }

    fn finish(self) -> Report {
        let server = self.server.map(|server| ServerUsage { resident_bytes: server.resident(), ..self.costs });
        let Load { shared, subscribers, .. } = self.load;
        Report {
            lost: subscribers.lost(&shared.topics),
            repeated: shared.tally.repeated,
            out_of_order: shared.tally.out_of_order,
            errors: shared.tally.errors,
            server,
            ..self.report
        }
    }
}

/// Nanoseconds divided by `n`, in microseconds.
fn micros_each(nanos: u64, n: u64) -> f64 {
    ratio(nanos, n) / 1_000.0
}
