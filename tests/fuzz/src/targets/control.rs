//! Bodies of requests on the control socket.

use std::fmt::Debug;

use kanpachi_common::name;
use kanpachi_node::ipc::{
    api::{
        ChangeRequest, InviteRequest, JoinRequest, ListReply, NetworkRequest, NickRequest,
        PingRequest, Status,
    },
    error::ErrorReply,
    query::check_invite,
};
use serde::{Serialize, de::DeserializeOwned};

/// Reads a body; what is read can be written and read again.
fn body<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(data).ok()?;
    let text = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(again, value);
    Some(value)
}

/// A body as every request there is, and as the replies that the command line reads.
///
/// # Panics
/// When a value does not read back, or a check of its fields panics.
pub fn control_body(data: &[u8]) {
    if let Some(request) = body::<JoinRequest>(data) {
        let _ = check_invite(request.invite.expose());
    }
    if let Some(request) = body::<InviteRequest>(data) {
        let _ = name::check(&request.network);
    }
    if let Some(request) = body::<NickRequest>(data) {
        let _ = name::check(&request.name);
    }
    body::<PingRequest>(data);
    body::<NetworkRequest>(data);
    body::<ChangeRequest>(data);
    if let Ok(status) = serde_json::from_slice::<Status>(data) {
        let target = String::from_utf8_lossy(&data[..data.len().min(40)]);
        let _ = status.find(&target);
        let _ = status.list();
    }
    let _ = serde_json::from_slice::<ListReply>(data);
    let _ = serde_json::from_slice::<ErrorReply>(data);
}
