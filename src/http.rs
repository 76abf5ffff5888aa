//! Reads requests, decides what they mean, and answers them. Only this module and `server` name actix-web.

// Each file uses only files below it.
mod fast;
pub mod fallback;
mod serve;
mod publish;
mod subscribe;
mod subscribers;
mod tickets;
mod topics;
mod metrics;
mod health;
mod cors;
mod origin;
mod credentials;
mod received;
mod app_state;
mod counts;
mod gate;
mod reply;
mod route;
mod page;
mod payload;
mod topic_list;
mod audit;
mod pending;
mod refusal;
mod local;
mod forwarded;
mod hosts;
mod accept;
mod fields;
mod spelling;
mod problem;
mod answer;
mod code;
mod head;
mod authority;

pub use app_state::{AppState, SharedState};
pub use counts::HttpCounts;
pub use fast::{Fallback, FastPath, LINGER};
pub use gate::Gate;
pub use pending::{PendingSlot, PendingSlots};
pub use problem::{Code, Problem};
