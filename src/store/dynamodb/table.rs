//! The table, for those who do not make it with their own tools.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, TableStatus, TimeToLiveSpecification,
};

use super::calls::{Backoff, Table};
use super::error::{failed, refused};
use super::item::{OWNER, PARTITION, SORT, TTL};
use crate::store::{ErrorKind, Operation, StoreError};

/// Makes the table with its index and its time to live, unless it is there, and waits until it serves.
pub(super) async fn create(table: &Table) -> Result<(), StoreError> {
    let other = |_| refused(ErrorKind::Other, Operation::Open);
    let attribute = |name: &str, kind: ScalarAttributeType| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(other)
    };
    let key = |name: &str, kind: KeyType| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(other)
    };
    let index = GlobalSecondaryIndex::builder()
        .index_name(&table.index)
        .key_schema(key(OWNER, KeyType::Hash)?)
        .key_schema(key("last_active", KeyType::Range)?)
        .projection(Projection::builder().projection_type(ProjectionType::All).build());
    let create = table
        .client
        .create_table()
        .table_name(&table.name)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute(PARTITION, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(SORT, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(OWNER, ScalarAttributeType::S)?)
        .attribute_definitions(attribute("last_active", ScalarAttributeType::N)?)
        .key_schema(key(PARTITION, KeyType::Hash)?)
        .key_schema(key(SORT, KeyType::Range)?)
        .global_secondary_indexes(index.build().map_err(other)?);
    match create.send().await {
        Ok(_) => {}
        // Another instance was faster, or it has been there before.
        Err(error) if error.code() == Some("ResourceInUseException") => {}
        Err(error) => return Err(failed(error, Operation::Open)),
    }
    wait_until_active(table).await?;
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(TTL).build().map_err(other)?;
    let update = table.client.update_time_to_live().table_name(&table.name).time_to_live_specification(ttl);
    match update.send().await {
        Ok(_) => Ok(()),
        // It is enabled already, or another instance is about to.
        Err(error) if error.code() == Some("ValidationException") => Ok(()),
        Err(error) => Err(failed(error, Operation::Open)),
    }
}

async fn wait_until_active(table: &Table) -> Result<(), StoreError> {
    let mut pause = Backoff::new(std::time::Duration::from_secs(60));
    loop {
        let described = table.client.describe_table().table_name(&table.name).send().await;
        let described = described.map_err(|error| failed(error, Operation::Open))?;
        if described.table().and_then(|table| table.table_status()) == Some(&TableStatus::Active) {
            return Ok(());
        }
        if !pause.wait().await {
            return Err(refused(ErrorKind::Unavailable, Operation::Open));
        }
    }
}
