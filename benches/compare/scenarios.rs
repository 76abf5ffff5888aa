//! What is measured: the load of each scenario, and the figures that count.

/// One figure of a report.
#[derive(Clone, Copy)]
pub struct Figure {
    pub title: &'static str,
    /// Where it is in the JSON of `tidings bench`.
    pub pointer: &'static str,
    /// What it is multiplied by.
    pub scale: f64,
}

const fn figure(title: &'static str, pointer: &'static str) -> Figure {
    Figure { title, pointer, scale: 1.0 }
}

const fn millis(title: &'static str, pointer: &'static str) -> Figure {
    Figure { title, pointer, scale: 0.001 }
}

const CPU: Figure = figure("CPU µs/delivery", "/server/delivery/total_us");
const USER: Figure = figure("user µs", "/server/delivery/user_us");
const DELIVERIES: Figure = figure("deliveries/s", "/delivered/per_second");
const PUBLISHED: Figure = figure("published/s", "/published/per_second");
const P50: Figure = millis("p50 ms", "/delivered/p50_us");
const P99: Figure = millis("p99 ms", "/delivered/p99_us");
const ANSWER_P50: Figure = millis("answer p50 ms", "/published/p50_us");
const ANSWER_P99: Figure = millis("answer p99 ms", "/published/p99_us");
const CONNECT: Figure = figure("CPU µs/connect", "/server/connect_cpu_us");
const MEMORY: Figure = figure("B/subscriber", "/server/resident_bytes_per_subscriber");
const RESIDENT: Figure = Figure { title: "MiB", pointer: "/server/resident_bytes", scale: 1.0 / 1_048_576.0 };
const RESUMED: Figure = figure("resumed/s", "/resumed/per_second");
const IDLE: Figure = figure("% of a core", "/server/idle_cpu_percent");
const BLOCKS: Figure = figure("blocks", "/idle/blocks");

/// One load on each server.
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// For `tidings bench`.
    pub arguments: &'static str,
    /// The servers that it makes sense for.
    pub servers: &'static [&'static str],
    /// The first is the one that servers are compared by.
    pub figures: &'static [Figure],
}

pub const FLOOR: &str = "floor";
pub const NCHAN: &str = "Nchan";
pub const MEMORY_ENGINE: &str = "Tidings, memory";
pub const DISK_ENGINE: &str = "Tidings, disk";
const ALL: &[&str] = &[FLOOR, NCHAN, MEMORY_ENGINE, DISK_ENGINE];
/// Those that keep a history.
const KEEPERS: &[&str] = &[NCHAN, MEMORY_ENGINE, DISK_ENGINE];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "paced",
        what: "10,000 subscribers of one topic, 5 events/s: each reaches all before the next",
        arguments: "--subscribers 10000 --rate 5 --messages 50 --spin",
        servers: ALL,
        figures: &[CPU, USER, P50, P99, CONNECT, MEMORY],
    },
    Scenario {
        name: "fanout",
        what: "10,000 subscribers of one topic, 60 events as fast as they are answered",
        arguments: "--subscribers 10000 --messages 60",
        servers: ALL,
        figures: &[DELIVERIES, CPU, P50, P99],
    },
    Scenario {
        name: "burst",
        what: "500 subscribers of one topic, 32 publishers, 4,000 events",
        arguments: "--subscribers 500 --publishers 32 --messages 4000",
        servers: ALL,
        figures: &[DELIVERIES, CPU, P50, P99, PUBLISHED],
    },
    Scenario {
        name: "many",
        what: "1,000 topics with one subscriber each, 8 publishers, 100 events each",
        arguments: "--subscribers 1000 --topics 1000 --publishers 8 --messages 100",
        servers: ALL,
        figures: &[CPU, USER, DELIVERIES, P50, P99],
    },
    Scenario {
        name: "mixed",
        what: "1,000 subscribers of one topic, 200 events of 100 to 10,000 bytes, 8 publishers",
        arguments: "--subscribers 1000 --messages 200 --publishers 8 --size 100..10000",
        servers: ALL,
        figures: &[DELIVERIES, CPU, P50, P99],
    },
    Scenario {
        name: "replay",
        what: "10,000 events of 100 bytes to 1,000 subscribers at once",
        arguments: "--replay --subscribers 1000 --messages 10000 --publishers 8",
        servers: KEEPERS,
        figures: &[DELIVERIES, CPU, P50, P99, RESIDENT],
    },
    Scenario {
        name: "storm",
        what: "19,000 subscribers drop and resume at once, each 5 events behind",
        arguments: "--storm --subscribers 19000 --messages 10",
        servers: KEEPERS,
        figures: &[RESUMED, CONNECT, P50, P99, RESIDENT],
    },
    Scenario {
        name: "idle",
        what: "10,000 subscribers that get nothing: memory, and CPU to connect",
        arguments: "--idle 1 --subscribers 10000",
        servers: ALL,
        figures: &[MEMORY, CONNECT, RESIDENT],
    },
    Scenario {
        name: "heartbeats",
        what: "19,000 subscribers that get heartbeats every 15 s, for 60 s",
        arguments: "--idle 60 --subscribers 19000",
        servers: KEEPERS,
        figures: &[IDLE, BLOCKS, MEMORY, RESIDENT],
    },
    Scenario {
        name: "durable",
        what: "256 publishers over 64 topics: what fsync costs",
        arguments: "--subscribers 64 --topics 64 --publishers 256 --messages 500",
        servers: &[MEMORY_ENGINE, DISK_ENGINE],
        figures: &[PUBLISHED, ANSWER_P50, ANSWER_P99, P99],
    },
];
