//! The part of the store that is the same in both databases but for the type of the connection:
//! statements of `sql.rs`, rows of `rows.rs`.
//!
//! A macro, because sqlx's queries are generic over the database in a way that takes a page of
//! bounds to write down. A store brings two pools, `writer` and `readers` (which may be the same),
//! `installation`, and the methods that differ.

/// Implements [`super::Store`] for a store.
macro_rules! impl_store {
    ($store:ty) => {
        #[async_trait]
        impl Store for $store {
            async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
                within(self.ask_time()).await
            }

            async fn join_recordings(
                &self,
                terms: Terms<'_>,
                which: &Unjoined,
            ) -> Result<Vec<Owed>, StoreError> {
                within(async {
                    let events = take::as_events(self.unjoined(which).await?, terms.now);
                    if events.is_empty() {
                        return Ok(Vec::new());
                    }
                    Ok(self.take_batch(Batch { terms, events: &events }).await?.owed)
                })
                .await
            }

            async fn claim(
                &self,
                process: Uuid,
                now: DateTime<Utc>,
                slots: &[(Uuid, u32)],
            ) -> Result<Vec<Owed>, StoreError> {
                within(self.claim_due(process, now, slots)).await
            }

            async fn release(&self, process: Uuid, deliveries: &[Uuid]) -> Result<(), StoreError> {
                within(self.give_back(process, deliveries)).await
            }

            async fn installation(&self) -> Result<Uuid, StoreError> {
                Ok(self.installation)
            }

            async fn take(&self, batch: Batch<'_>) -> Result<Taken, StoreError> {
                within(self.take_batch(batch)).await
            }

            async fn session(&self, session_id: Uuid) -> Result<Option<Session>, StoreError> {
                within(async {
                    let row: Option<SessionRow> = query_as(sql::SESSION)
                        .bind(session_id)
                        .fetch_optional(&self.readers)
                        .await
                        .map_err(failed)?;
                    row.map(Session::try_from).transpose()
                })
                .await
            }

            async fn add_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
                within(async {
                    query(sql::ADD_ENDPOINT)
                        .bind(endpoint.endpoint_id)
                        .bind(endpoint.owner)
                        .bind(&endpoint.tenant_id)
                        .bind(&endpoint.character_slug)
                        .bind(event_type_list(&endpoint.event_types))
                        .bind(endpoint.payload.as_str())
                        .bind(&endpoint.url)
                        .bind(&endpoint.sealed_secret)
                        .bind(endpoint.disabled.as_ref().map(|(at, _)| *at))
                        .bind(endpoint.disabled.as_ref().map(|(_, because)| because.clone()))
                        .bind(endpoint.created_at)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(())
                })
                .await
            }

            async fn endpoints(&self, owner: Option<i64>) -> Result<Vec<Endpoint>, StoreError> {
                within(async {
                    let rows: Vec<EndpointRow> = query_as(sql::ENDPOINTS)
                        .bind(owner)
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)?;
                    read_all(rows)
                })
                .await
            }

            async fn endpoint(&self, endpoint_id: Uuid) -> Result<Option<Endpoint>, StoreError> {
                within(async {
                    let row: Option<EndpointRow> = query_as(sql::ENDPOINT)
                        .bind(endpoint_id)
                        .fetch_optional(&self.readers)
                        .await
                        .map_err(failed)?;
                    row.map(Endpoint::try_from).transpose()
                })
                .await
            }

            async fn disable_endpoint(
                &self,
                endpoint_id: Uuid,
                reason: &str,
                now: DateTime<Utc>,
            ) -> Result<(), StoreError> {
                within(async {
                    let mut tx = self.begin().await?;
                    query(sql::DISABLE_ENDPOINT)
                        .bind(endpoint_id)
                        .bind(now)
                        .bind(reason)
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                    query(sql::CANCEL_PENDING)
                        .bind(endpoint_id)
                        .bind(now)
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                    tx.commit().await.map_err(failed)
                })
                .await
            }

            async fn enter(
                &self,
                process: Uuid,
                now: DateTime<Utc>,
                alive_until: DateTime<Utc>,
            ) -> Result<(), StoreError> {
                within(async {
                    query(sql::FORGET_DEAD)
                        .bind(now)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    query(sql::ENTER)
                        .bind(process)
                        .bind(alive_until)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(())
                })
                .await
            }

            async fn keep_alive(
                &self,
                process: Uuid,
                now: DateTime<Utc>,
                alive_until: DateTime<Utc>,
            ) -> Result<bool, StoreError> {
                within(async {
                    let kept = query(sql::KEEP_ALIVE)
                        .bind(process)
                        .bind(now)
                        .bind(alive_until)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(kept.rows_affected() > 0)
                })
                .await
            }

            async fn leave(&self, process: Uuid) -> Result<(), StoreError> {
                within(async {
                    let mut tx = self.begin().await?;
                    query(sql::GIVE_BACK).bind(process).execute(&mut *tx).await.map_err(failed)?;
                    query(sql::LEAVE).bind(process).execute(&mut *tx).await.map_err(failed)?;
                    tx.commit().await.map_err(failed)
                })
                .await
            }

            async fn rescue(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
                within(async {
                    let rescued =
                        query(sql::RESCUE).bind(now).execute(&self.writer).await.map_err(failed)?;
                    Ok(rescued.rows_affected())
                })
                .await
            }

            async fn due_endpoints(&self, now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
                within(async {
                    query_scalar(sql::DUE_ENDPOINTS)
                        .bind(now)
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)
                })
                .await
            }

            async fn record(
                &self,
                process: Uuid,
                attempts: &[AttemptResult],
            ) -> Result<Vec<Uuid>, StoreError> {
                within(self.record_all(process, attempts)).await
            }

            async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
                within(async {
                    query_scalar(sql::NEXT_DUE).fetch_one(&self.readers).await.map_err(failed)
                })
                .await
            }

            async fn deliveries_of(&self, session_id: Uuid) -> Result<Vec<Delivery>, StoreError> {
                within(async {
                    let rows: Vec<DeliveryRow> = query_as(sql::DELIVERIES_OF)
                        .bind(session_id)
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)?;
                    read_all(rows)
                })
                .await
            }

            async fn delivery_counts(&self) -> Result<Vec<(DeliveryState, i64)>, StoreError> {
                within(async {
                    let rows: Vec<(String, i64)> = query_as(sql::DELIVERY_COUNTS)
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)?;
                    rows.into_iter()
                        .map(|(state, count)| Ok((delivery_state(&state)?, count)))
                        .collect()
                })
                .await
            }

            async fn failures(&self, filter: &FailureFilter) -> Result<Vec<Failure>, StoreError> {
                within(async {
                    let rows: Vec<FailureRow> = query_as(sql::FAILURES)
                        .bind(filter.code.map(FailureCode::as_str))
                        .bind(filter.session_id)
                        .bind(i64::from(filter.limit))
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)?;
                    read_all(rows)
                })
                .await
            }

            async fn failure(
                &self,
                failure_id: Uuid,
            ) -> Result<Option<(Failure, Bytes)>, StoreError> {
                within(async {
                    let row: Option<RawFailureRow> = query_as(sql::FAILURE)
                        .bind(failure_id)
                        .fetch_optional(&self.readers)
                        .await
                        .map_err(failed)?;
                    row.map(|row| Ok((row.failure.try_into()?, Bytes::from(row.raw)))).transpose()
                })
                .await
            }

            async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
                within(async {
                    query(sql::ADD_API_KEY)
                        .bind(key.key_id)
                        .bind(&key.hash[..])
                        .bind(&key.preview)
                        .bind(&key.name)
                        .bind(key.user)
                        .bind(key.is_staff)
                        .bind(key.is_active)
                        .bind(key.created_at)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(())
                })
                .await
            }

            async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
                within(async {
                    let row: Option<ApiKeyRow> = query_as(sql::API_KEY)
                        .bind(&hash[..])
                        .fetch_optional(&self.readers)
                        .await
                        .map_err(failed)?;
                    row.map(ApiKey::try_from).transpose()
                })
                .await
            }

            async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
                within(async {
                    let rows: Vec<ApiKeyRow> =
                        query_as(sql::API_KEYS).fetch_all(&self.readers).await.map_err(failed)?;
                    read_all(rows)
                })
                .await
            }
        }
    };
}

pub(super) use impl_store;
