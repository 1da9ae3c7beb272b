//! What a store says of itself.

use super::kit::{Check, FAR, Instances, ensure, told, turn};
use crate::store::{Append, Store};
use crate::turn::Head;

pub(super) async fn what_a_store_is_does_not_change(instances: &Instances) -> Check {
    let info = instances.store().info();
    let word = info.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    ensure!(word && !info.name.is_empty(), "its name {:?} is not one lower-case word", info.name);
    let session = instances.session();
    session.append(&Append::new(turn("hello"), Head::ABSENT)).await?;
    session.delete().await?;
    ensure!(instances.store().info() == info, "info was {info:?}, and is {:?}", instances.store().info());
    ensure!(instances.second().info() == info, "the second instance says {:?}", instances.second().info());
    Ok(())
}

pub(super) async fn ping_answers_while_the_store_serves(instances: &Instances) -> Check {
    for store in [instances.store(), instances.second()] {
        told("ping", store.ping().await)?;
        instances.session().fill(1).await?;
        told("ping", store.ping().await)?;
    }
    Ok(())
}

/// Debug output reaches logs: it shows nobody's conversation.
pub(super) async fn debug_output_names_nobody(instances: &Instances) -> Check {
    const CANARY: &str = "canary-in-the-log";
    let key = crate::key::SessionKey::new(crate::key::ConversationId::random());
    let subject = crate::key::Subject::new(CANARY).map_err(|error| error.to_string())?;
    let session = instances.session_of(key.with_subject(subject));
    session.append(&Append::new(turn(CANARY), Head::ABSENT)).await?;
    let loaded = session.all().await?;
    let shown = format!("{:?} {:?} {loaded:?}", instances.store(), instances.second());
    ensure!(!shown.contains(CANARY), "Debug shows what is stored");
    let Err(refused) = session.attempt(&Append::new(turn(CANARY), Head::new(FAR, 1))).await else {
        return Err("a turn of another epoch was stored".to_owned());
    };
    let shown = format!("{refused} {refused:?}");
    ensure!(
        !shown.contains(CANARY) && !shown.contains(session.key.conversation().as_str()),
        "an error names a session"
    );
    Ok(())
}
