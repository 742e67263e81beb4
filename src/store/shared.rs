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

            async fn overdue_recordings(
                &self,
                finalized_by: DateTime<Utc>,
                limit: u32,
            ) -> Result<Vec<Uuid>, StoreError> {
                within(async {
                    query_scalar(sql::OVERDUE_RECORDINGS)
                        .bind(finalized_by)
                        .bind(i64::from(limit))
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)
                })
                .await
            }

            async fn awaited_files(
                &self,
                now: DateTime<Utc>,
                leased_until: DateTime<Utc>,
                limit: u32,
            ) -> Result<Vec<AwaitedFile>, StoreError> {
                within(all::<AwaitedFileRow, _>(
                    query_as(AWAITED_FILES).bind(now).bind(leased_until).bind(i64::from(limit)),
                    &self.writer,
                ))
                .await
            }

            async fn look_again(&self, looks: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError> {
                within(async {
                    let mut tx = self.begin().await?;
                    for (session_id, at) in looks {
                        query(sql::LOOK_AGAIN)
                            .bind(session_id)
                            .bind(at)
                            .execute(&mut *tx)
                            .await
                            .map_err(failed)?;
                    }
                    tx.commit().await.map_err(failed)
                })
                .await
            }

            async fn expire_recordings(
                &self,
                first_seen_by: DateTime<Utc>,
                now: DateTime<Utc>,
                limit: u32,
            ) -> Result<Expired, StoreError> {
                within(async {
                    let mut tx = Writing(self.begin().await?);
                    let rows: Vec<EgressRow> = query_as(sql::EXPIRE_EGRESSES)
                        .bind(first_seen_by)
                        .bind(i64::from(limit))
                        .fetch_all(&mut *tx.0)
                        .await
                        .map_err(failed)?;
                    let expired = recording::keep_expired(&mut tx, read_all(rows)?, now).await?;
                    Box::new(tx).commit().await?;
                    Ok(expired)
                })
                .await
            }

            async fn silent_sessions(
                &self,
                silence: Silence,
                after: (DateTime<Utc>, Uuid),
                limit: u32,
            ) -> Result<Vec<SilentCall>, StoreError> {
                within(all::<SilentRow, _>(
                    query_as(sql::SILENT_SESSIONS)
                        .bind(silence.since_room)
                        .bind(silence.since)
                        .bind(after.0)
                        .bind(after.1)
                        .bind(i64::from(limit)),
                    &self.readers,
                ))
                .await
            }

            async fn forget_rooms(
                &self,
                heard_by: DateTime<Utc>,
                limit: u32,
            ) -> Result<u64, StoreError> {
                within(async {
                    let forgotten = query(sql::FORGET_ROOMS)
                        .bind(heard_by)
                        .bind(i64::from(limit))
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(forgotten.rows_affected())
                })
                .await
            }

            async fn note_intake(
                &self,
                state: &IntakeState,
                seen_by: DateTime<Utc>,
            ) -> Result<(), StoreError> {
                within(async {
                    query(sql::NOTE_INTAKE)
                        .bind(state.process_id)
                        .bind(state.is_consuming)
                        .bind(state.current_since)
                        .bind(state.seen_at)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    query(sql::FORGET_INTAKES)
                        .bind(seen_by)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(())
                })
                .await
            }

            async fn intakes(&self) -> Result<Vec<IntakeState>, StoreError> {
                within(all::<IntakeRow, _>(query_as(sql::INTAKES), &self.readers)).await
            }

            async fn claim(
                &self,
                process: Uuid,
                now: DateTime<Utc>,
                slots: &[Slot],
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
                within(one::<SessionRow, _>(query_as(sql::SESSION).bind(session_id), &self.readers))
                    .await
            }

            async fn history(
                &self,
                filter: &HistoryFilter,
                limit: u32,
                offset: u64,
            ) -> Result<Vec<Session>, StoreError> {
                within(async {
                    let (start, end) = filter.range();
                    let statement = filter.owner.map_or(sql::HISTORY, |_| sql::HISTORY_OF);
                    let mut asked = query_as(statement)
                        .bind(start)
                        .bind(end)
                        .bind(&filter.tenant_id)
                        .bind(&filter.character_slug)
                        .bind(i64::from(limit))
                        .bind(i64::try_from(offset).unwrap_or(i64::MAX));
                    if let Some(owner) = filter.owner {
                        asked = asked.bind(owner);
                    }
                    all::<SessionRow, _>(asked, &self.readers).await
                })
                .await
            }

            async fn history_totals(&self, filter: &HistoryFilter) -> Result<Totals, StoreError> {
                within(async {
                    let (start, end) = filter.range();
                    let statement =
                        filter.owner.map_or(sql::HISTORY_TOTALS, |_| sql::HISTORY_TOTALS_OF);
                    let mut asked = query_as(statement)
                        .bind(start)
                        .bind(end)
                        .bind(&filter.tenant_id)
                        .bind(&filter.character_slug);
                    if let Some(owner) = filter.owner {
                        asked = asked.bind(owner);
                    }
                    let row: TotalsRow = asked.fetch_one(&self.readers).await.map_err(failed)?;
                    Ok(row.into())
                })
                .await
            }

            async fn finalized_after(
                &self,
                filter: &HistoryFilter,
                cursor: Cursor,
                limit: u32,
            ) -> Result<Walked, StoreError> {
                within(self.walk(filter, cursor, limit)).await
            }

            async fn finalized_lately(
                &self,
                owner: Option<i64>,
                since: DateTime<Utc>,
            ) -> Result<Vec<FinalizedCall>, StoreError> {
                within(async {
                    let statement = owner.map_or(FINALIZED_LATELY, |_| FINALIZED_LATELY_OF);
                    let mut asked = query_as(statement).bind(since).bind(i64::from(MOST_LOOKED_AT));
                    if let Some(owner) = owner {
                        asked = asked.bind(owner);
                    }
                    all::<FinalizedCallRow, _>(asked, &self.readers).await
                })
                .await
            }

            async fn backlog(&self, owner: Option<i64>) -> Result<Backlog, StoreError> {
                within(async {
                    let (pending, given_up) = match owner {
                        None => (sql::PENDING, sql::GIVEN_UP),
                        Some(_) => (sql::PENDING_OF, sql::GIVEN_UP_OF),
                    };
                    // One more than are counted tells that there are more.
                    let limit = i64::from(MOST_LOOKED_AT) + 1;
                    let (mut pending, mut given_up) =
                        (query_as(pending).bind(limit), query_as(given_up).bind(limit));
                    if let Some(owner) = owner {
                        (pending, given_up) = (pending.bind(owner), given_up.bind(owner));
                    }
                    let pending = pending.fetch_one(&self.readers).await.map_err(failed)?;
                    let given_up = given_up.fetch_one(&self.readers).await.map_err(failed)?;
                    Ok(backlog(&pending, &given_up))
                })
                .await
            }

            async fn bills(
                &self,
                since: DateTime<Utc>,
                from: Uuid,
                limit: u32,
            ) -> Result<Bills, StoreError> {
                within(async {
                    let rows: Vec<BillRow> = query_as(sql::BILLS)
                        .bind(since)
                        .bind(from)
                        .bind(i64::from(limit))
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)?;
                    Ok(bills(rows, limit))
                })
                .await
            }

            async fn reprice(&self, changes: &[Repriced]) -> Result<Vec<Uuid>, StoreError> {
                within(async {
                    let mut bills: Vec<&Bill> = changes.iter().map(|change| &change.bill).collect();
                    // In the order in which workers lock them, so that nobody waits for each other.
                    bills.sort_unstable_by_key(|bill| bill.session_id);
                    let (mut tx, mut repriced) = (self.begin().await?, Vec::new());
                    for bill in bills {
                        let changed = query(sql::REPRICE)
                            .bind(bill.session_id)
                            .bind(bill.version)
                            .bind(bill.cost.micros)
                            .bind(&bill.cost.breakdown)
                            .execute(&mut *tx)
                            .await
                            .map_err(failed)?;
                        repriced.extend((changed.rows_affected() > 0).then_some(bill.session_id));
                    }
                    tx.commit().await.map_err(failed)?;
                    Ok(repriced)
                })
                .await
            }

            async fn erase(
                &self,
                session_id: Uuid,
                recordings_place: &str,
                now: DateTime<Utc>,
            ) -> Result<Option<Vec<String>>, StoreError> {
                within(self.erase_session(session_id, recordings_place, now)).await
            }

            async fn keep_files(
                &self,
                session_id: Uuid,
                files: &[String],
            ) -> Result<(), StoreError> {
                within(self.keep_erased_files(session_id, files)).await
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
                        .bind(&endpoint.sealed_headers)
                        .bind(number(endpoint.timeout_seconds))
                        .bind(endpoint.rate_limit_per_minute.map(number))
                        .bind(endpoint.disabled.as_ref().map(|(at, _)| *at))
                        .bind(endpoint.disabled.as_ref().map(|(_, because)| because.clone()))
                        .bind(endpoint.created_at)
                        .bind(endpoint.version)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(())
                })
                .await
            }

            async fn endpoints(&self, owner: Option<i64>) -> Result<Vec<Endpoint>, StoreError> {
                within(all::<EndpointRow, _>(query_as(sql::ENDPOINTS).bind(owner), &self.readers))
                    .await
            }

            async fn endpoint(&self, endpoint_id: Uuid) -> Result<Option<Endpoint>, StoreError> {
                within(one::<EndpointRow, _>(
                    query_as(sql::ENDPOINT).bind(endpoint_id),
                    &self.readers,
                ))
                .await
            }

            async fn change_endpoint(&self, endpoint: &Endpoint) -> Result<bool, StoreError> {
                within(async {
                    let mut tx = self.begin().await?;
                    query(sql::FORGET_HEALTH_OF_OTHER_URL)
                        .bind(endpoint.endpoint_id)
                        .bind(endpoint.version)
                        .bind(&endpoint.url)
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                    let changed = query(sql::CHANGE_ENDPOINT)
                        .bind(endpoint.endpoint_id)
                        .bind(endpoint.version)
                        .bind(&endpoint.tenant_id)
                        .bind(&endpoint.character_slug)
                        .bind(event_type_list(&endpoint.event_types))
                        .bind(endpoint.payload.as_str())
                        .bind(&endpoint.url)
                        .bind(&endpoint.sealed_secret)
                        .bind(&endpoint.sealed_headers)
                        .bind(number(endpoint.timeout_seconds))
                        .bind(endpoint.rate_limit_per_minute.map(number))
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                    tx.commit().await.map_err(failed)?;
                    Ok(changed.rows_affected() > 0)
                })
                .await
            }

            async fn disable_endpoint(
                &self,
                endpoint_id: Uuid,
                reason: &str,
                now: DateTime<Utc>,
            ) -> Result<bool, StoreError> {
                within(async {
                    let (mut tx, installation) = (Writing(self.begin().await?), self.installation);
                    let failing = tx.health(endpoint_id).await?.failing;
                    let is_new =
                        record::disable(&mut tx, installation, endpoint_id, reason, failing, now)
                            .await?;
                    Box::new(tx).commit().await?;
                    Ok(is_new)
                })
                .await
            }

            async fn enable_endpoint(&self, endpoint_id: Uuid) -> Result<bool, StoreError> {
                within(async {
                    let mut tx = self.begin().await?;
                    query(sql::FORGET_HEALTH_OF_DISABLED)
                        .bind(endpoint_id)
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                    let enabled = query(sql::ENABLE_ENDPOINT)
                        .bind(endpoint_id)
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                    tx.commit().await.map_err(failed)?;
                    Ok(enabled.rows_affected() > 0)
                })
                .await
            }

            async fn delete_endpoint(
                &self,
                endpoint_id: Uuid,
                now: DateTime<Utc>,
            ) -> Result<bool, StoreError> {
                within(async {
                    let mut tx = Writing(self.begin().await?);
                    query(sql::FORGET_HEALTH)
                        .bind(endpoint_id)
                        .execute(&mut *tx.0)
                        .await
                        .map_err(failed)?;
                    let deleted = query(sql::DELETE_ENDPOINT)
                        .bind(endpoint_id)
                        .bind(now)
                        .bind(Vec::<u8>::new())
                        .execute(&mut *tx.0)
                        .await
                        .map_err(failed)?;
                    let limit = record::CANCELLED_AT_ONCE;
                    tx.cancel_pending(endpoint_id, Cause::EndpointDeleted, now, limit).await?;
                    Box::new(tx).commit().await?;
                    Ok(deleted.rows_affected() > 0)
                })
                .await
            }

            async fn endpoint_health(
                &self,
                now: DateTime<Utc>,
            ) -> Result<Vec<EndpointHealth>, StoreError> {
                within(all::<HealthRow, _>(query_as(sql::UNWELL).bind(now), &self.readers)).await
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

            async fn due_endpoints(
                &self,
                now: DateTime<Utc>,
            ) -> Result<Vec<DueEndpoint>, StoreError> {
                within(all::<DueEndpointRow, _>(
                    query_as(sql::DUE_ENDPOINTS).bind(now),
                    &self.readers,
                ))
                .await
            }

            async fn record(
                &self,
                process: Uuid,
                results: &[AttemptResult],
                now: DateTime<Utc>,
            ) -> Result<Recorded, StoreError> {
                within(async {
                    let tx = Box::new(Writing(self.begin_batch().await?));
                    record::record(tx, self.installation, process, results, now).await
                })
                .await
            }

            async fn cancel_undeliverable(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
                within(async {
                    let found: Option<(Uuid, bool)> = query_as(sql::UNDELIVERABLE)
                        .fetch_optional(&self.readers)
                        .await
                        .map_err(failed)?;
                    let Some((endpoint_id, is_deleted)) = found else { return Ok(0) };
                    let cause =
                        if is_deleted { Cause::EndpointDeleted } else { Cause::EndpointDisabled };
                    let mut tx = Writing(self.begin().await?);
                    let limit = record::CANCELLED_AT_ONCE;
                    let cancelled = tx.cancel_pending(endpoint_id, cause, now, limit).await?;
                    Box::new(tx).commit().await?;
                    Ok(cancelled)
                })
                .await
            }

            async fn workload(&self, now: DateTime<Utc>) -> Result<Workload, StoreError> {
                within(async {
                    let most = i64::from(WORKLOAD_COUNTED);
                    let pending: i64 = query_scalar(sql::PENDING_COUNTED)
                        .bind(most)
                        .fetch_one(&self.readers)
                        .await
                        .map_err(failed)?;
                    let due_since = query_scalar(sql::DUE_SINCE)
                        .bind(now)
                        .fetch_one(&self.readers)
                        .await
                        .map_err(failed)?;
                    let open: i64 = query_scalar(sql::OPEN_FAILURES_COUNTED)
                        .bind(most)
                        .fetch_one(&self.readers)
                        .await
                        .map_err(failed)?;
                    let count = |found: i64| u32::try_from(found).unwrap_or(WORKLOAD_COUNTED);
                    Ok(Workload { pending: count(pending), due_since, open_failures: count(open) })
                })
                .await
            }

            async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
                within(async {
                    query_scalar(sql::NEXT_DUE).fetch_one(&self.readers).await.map_err(failed)
                })
                .await
            }

            async fn deliveries_of(&self, session_id: Uuid) -> Result<Vec<Delivery>, StoreError> {
                within(all::<DeliveryRow, _>(
                    query_as(sql::DELIVERIES_OF).bind(session_id),
                    &self.readers,
                ))
                .await
            }

            async fn deliveries(
                &self,
                filter: &DeliveryFilter,
            ) -> Result<Vec<Delivery>, StoreError> {
                within(async {
                    let is_of_one = filter.endpoint_id.is_some();
                    let mut asked = query_as(sql::page_of_deliveries(filter.state, is_of_one))
                        .bind(filter.before.unwrap_or(Uuid::max()))
                        .bind(i64::from(filter.limit));
                    if let Some(endpoint_id) = filter.endpoint_id {
                        asked = asked.bind(endpoint_id);
                    }
                    all::<DeliveryRow, _>(asked, &self.readers).await
                })
                .await
            }

            async fn deliveries_of_message(
                &self,
                message_id: MessageId,
            ) -> Result<Vec<Delivery>, StoreError> {
                within(all::<DeliveryRow, _>(
                    query_as(DELIVERIES_OF_MESSAGE).bind(&message_id.0[..]),
                    &self.readers,
                ))
                .await
            }

            async fn delivery(
                &self,
                delivery_id: Uuid,
            ) -> Result<Option<DeliveryStory>, StoreError> {
                within(async {
                    let row: Option<DeliveryStoryRow> = query_as(sql::DELIVERY)
                        .bind(delivery_id)
                        .fetch_optional(&self.readers)
                        .await
                        .map_err(failed)?;
                    let Some(row) = row else { return Ok(None) };
                    let attempts: Vec<AttemptRow> = query_as(sql::ATTEMPTS)
                        .bind(delivery_id)
                        .fetch_all(&self.readers)
                        .await
                        .map_err(failed)?;
                    Ok(Some(DeliveryStory {
                        delivery: row.delivery.try_into()?,
                        body: Bytes::from(row.body.unwrap_or_default()),
                        attempts: read_all(attempts)?,
                    }))
                })
                .await
            }

            async fn redeliver(
                &self,
                deliveries: &[Uuid],
                now: DateTime<Utc>,
            ) -> Result<Vec<Uuid>, StoreError> {
                within(async {
                    let (mut tx, mut owed) = (self.begin().await?, Vec::new());
                    for delivery_id in deliveries {
                        let changed = query(REDELIVER)
                            .bind(delivery_id)
                            .bind(now)
                            .execute(&mut *tx)
                            .await
                            .map_err(failed)?;
                        owed.extend((changed.rows_affected() > 0).then_some(*delivery_id));
                    }
                    tx.commit().await.map_err(failed)?;
                    Ok(owed)
                })
                .await
            }

            async fn count_range(
                &self,
                range: &RedeliveryRange,
            ) -> Result<Option<i64>, StoreError> {
                let Some(endpoint) = self.endpoint(range.endpoint_id).await? else {
                    return Ok(Some(0));
                };
                let mut count: i64 = within(async {
                    query_scalar(sql::COUNT_RANGE)
                        .bind(range.endpoint_id)
                        .bind(redelivery::least_id(range.since))
                        .bind(redelivery::least_id(range.until))
                        .bind(range.statuses.exhausted)
                        .bind(range.statuses.cancelled)
                        .bind(MOST_COUNTED)
                        .fetch_one(&self.readers)
                        .await
                        .map_err(failed)
                })
                .await?;
                let (mut position, mut looked_at) =
                    (redelivery::Position::start(range.since).message, count);
                while range.statuses.missing {
                    if looked_at >= MOST_COUNTED {
                        return Ok(None);
                    }
                    let asked = messages_told(
                        sql::MESSAGES_LOOKED_AT,
                        &endpoint,
                        &position,
                        range.until,
                        COUNTED_AT_ONCE,
                    );
                    let told: Vec<ToldMessage> =
                        within(all::<ToldMessageRow, _>(asked, &self.readers)).await?;
                    let Some(last) = told.last() else { break };
                    position = (last.created_at, last.message_id.0.to_vec());
                    looked_at += i64::from(COUNTED_AT_ONCE);
                    let missing =
                        told.iter().filter(|told| redelivery::is_missing(told, &endpoint));
                    count += i64::try_from(missing.count()).unwrap_or(0);
                }
                Ok((count < MOST_COUNTED).then_some(count))
            }

            async fn add_redelivery(&self, job: &Redelivery) -> Result<bool, StoreError> {
                within(async {
                    let added = query(sql::ADD_REDELIVERY)
                        .bind(job.redelivery_id)
                        .bind(job.range.endpoint_id)
                        .bind(job.range.since)
                        .bind(job.range.until)
                        .bind(job.range.statuses.names().join(","))
                        .bind(number(job.per_second))
                        .bind(job.state.as_str())
                        .bind(job.matched)
                        .bind(job.redelivered)
                        .bind(job.skipped)
                        .bind(job.position.delivery)
                        .bind(job.position.message.0)
                        .bind(&job.position.message.1)
                        .bind(job.next_step_at)
                        .bind(job.created_at)
                        .bind(job.finished_at)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(added.rows_affected() > 0)
                })
                .await
            }

            async fn redeliveries(
                &self,
                endpoint_id: Option<Uuid>,
            ) -> Result<Vec<Redelivery>, StoreError> {
                within(all::<RedeliveryRow, _>(
                    query_as(sql::REDELIVERIES).bind(endpoint_id),
                    &self.readers,
                ))
                .await
            }

            async fn redelivery(
                &self,
                redelivery_id: Uuid,
            ) -> Result<Option<Redelivery>, StoreError> {
                within(one::<RedeliveryRow, _>(
                    query_as(sql::REDELIVERY).bind(redelivery_id),
                    &self.readers,
                ))
                .await
            }

            async fn cancel_redelivery(
                &self,
                redelivery_id: Uuid,
                now: DateTime<Utc>,
            ) -> Result<bool, StoreError> {
                within(async {
                    let cancelled = query(sql::CANCEL_REDELIVERY)
                        .bind(redelivery_id)
                        .bind(now)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(cancelled.rows_affected() > 0)
                })
                .await
            }

            async fn advance_redelivery(
                &self,
                public_url: &str,
                now: DateTime<Utc>,
            ) -> Result<Option<Redelivery>, StoreError> {
                within(async {
                    let mut tx = Writing(self.begin().await?);
                    let Some(job) = tx.take_redelivery(now).await? else { return Ok(None) };
                    let (redelivery_id, installation) = (job.redelivery_id, self.installation);
                    let advanced =
                        redelivery::advance(Box::new(tx), job, installation, public_url, now).await;
                    if advanced.is_err() {
                        // The others must not wait behind one that fails.
                        query(sql::DEFER_REDELIVERY)
                            .bind(redelivery_id)
                            .bind(now + redelivery::AFTER_FAILURE)
                            .execute(&self.writer)
                            .await
                            .map_err(failed)?;
                    }
                    advanced.map(Some)
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
                within(self.list_failures(filter)).await
            }

            async fn failure(
                &self,
                failure_id: Uuid,
            ) -> Result<Option<(Failure, Bytes)>, StoreError> {
                within(self.find_failure(failure_id)).await
            }

            async fn discard_failure(
                &self,
                failure_id: Uuid,
                by: &str,
                now: DateTime<Utc>,
            ) -> Result<Result<(), Refusal>, StoreError> {
                within(self.discard(failure_id, by, now)).await
            }

            async fn begin_replay(
                &self,
                beginning: Beginning,
            ) -> Result<Result<(Failure, Bytes), Refusal>, StoreError> {
                within(self.begin_replay_of(&beginning)).await
            }

            async fn end_replay(&self, ending: Ending<'_>) -> Result<Option<Taken>, StoreError> {
                within(self.end_replay_of(&ending)).await
            }

            async fn abandon_replay(
                &self,
                failure_id: Uuid,
                process: Uuid,
            ) -> Result<(), StoreError> {
                within(self.abandon_replay_of(failure_id, process)).await
            }

            async fn leave_replays(&self, process: Uuid) -> Result<(), StoreError> {
                within(self.abandon_all_of(process)).await
            }

            async fn try_out(
                &self,
                terms: Terms<'_>,
                event: &Prepared,
            ) -> Result<Tried, StoreError> {
                within(self.try_event(terms, event)).await
            }

            async fn open_failures(
                &self,
                which: &OpenFailures,
                after: Uuid,
                limit: u32,
            ) -> Result<Vec<Uuid>, StoreError> {
                within(self.find_open_failures(which, after, limit)).await
            }

            async fn count_open_failures(
                &self,
                which: &OpenFailures,
            ) -> Result<Option<i64>, StoreError> {
                within(self.count_open(which)).await
            }

            async fn add_replay(&self, job: &Replay) -> Result<(), StoreError> {
                within(self.insert_replay(job)).await
            }

            async fn replays(&self) -> Result<Vec<Replay>, StoreError> {
                within(all::<ReplayRow, _>(query_as(replays::REPLAYS), &self.readers)).await
            }

            async fn replay(&self, replay_id: Uuid) -> Result<Option<Replay>, StoreError> {
                within(one::<ReplayRow, _>(
                    query_as(replays::REPLAY).bind(replay_id),
                    &self.readers,
                ))
                .await
            }

            async fn cancel_replay(
                &self,
                replay_id: Uuid,
                now: DateTime<Utc>,
            ) -> Result<bool, StoreError> {
                within(self.change_job(replays::CANCEL_REPLAY, (replay_id, None), Some(now))).await
            }

            async fn take_replay(
                &self,
                process: Uuid,
                now: DateTime<Utc>,
            ) -> Result<Option<Replay>, StoreError> {
                within(self.take_job(process, now)).await
            }

            async fn count_replay(
                &self,
                replay_id: Uuid,
                process: Uuid,
                steps: &Progress,
            ) -> Result<bool, StoreError> {
                within(self.count_steps(replay_id, process, steps)).await
            }

            async fn finish_replay(
                &self,
                replay_id: Uuid,
                process: Uuid,
                now: DateTime<Utc>,
            ) -> Result<bool, StoreError> {
                let job = (replay_id, Some(process));
                within(self.change_job(replays::FINISH_REPLAY, job, Some(now))).await
            }

            async fn give_back_replay(
                &self,
                replay_id: Uuid,
                process: Uuid,
            ) -> Result<(), StoreError> {
                let job = (replay_id, Some(process));
                within(self.change_job(replays::GIVE_BACK_REPLAY, job, None)).await?;
                Ok(())
            }

            async fn expire_failures(
                &self,
                last_seen_by: DateTime<Utc>,
                now: DateTime<Utc>,
                limit: u32,
            ) -> Result<u64, StoreError> {
                within(self.expire_raw(last_seen_by, now, limit)).await
            }

            async fn prune(
                &self,
                before: DateTime<Utc>,
                after: &PrunePosition,
                limit: u32,
                is_dry_run: bool,
            ) -> Result<(Pruned, Option<PrunePosition>), StoreError> {
                within(async {
                    let mut tx = Writing(self.begin().await?);
                    let pruned = prune::step(&mut tx, before, after, limit).await?;
                    if is_dry_run {
                        // Not when the connection comes to it: who prunes next passes over what is locked.
                        tx.0.rollback().await.map_err(failed)?;
                    } else {
                        Box::new(tx).commit().await?;
                    }
                    Ok(pruned)
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
                        .bind(key.last_used_at)
                        .execute(&self.writer)
                        .await
                        .map_err(failed)?;
                    Ok(())
                })
                .await
            }

            async fn api_key(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
                within(one::<ApiKeyRow, _>(query_as(sql::API_KEY).bind(&hash[..]), &self.readers))
                    .await
            }

            async fn api_keys(&self, user: Option<i64>) -> Result<Vec<ApiKey>, StoreError> {
                within(all::<ApiKeyRow, _>(query_as(sql::API_KEYS).bind(user), &self.readers)).await
            }

            async fn change_api_key(
                &self,
                key_id: Uuid,
                user: Option<i64>,
                change: &ApiKeyChange,
            ) -> Result<Option<ApiKey>, StoreError> {
                within(one::<ApiKeyRow, _>(
                    query_as(sql::CHANGE_API_KEY)
                        .bind(key_id)
                        .bind(user)
                        .bind(&change.name)
                        .bind(change.is_active),
                    &self.writer,
                ))
                .await
            }

            async fn delete_api_key(
                &self,
                key_id: Uuid,
                user: Option<i64>,
            ) -> Result<Option<ApiKey>, StoreError> {
                within(one::<ApiKeyRow, _>(
                    query_as(sql::DELETE_API_KEY).bind(key_id).bind(user),
                    &self.writer,
                ))
                .await
            }

            async fn note_api_key_uses(
                &self,
                uses: &[(Uuid, DateTime<Utc>)],
            ) -> Result<(), StoreError> {
                within(async {
                    // In one order everywhere, so that processes cannot wait for each other.
                    let mut uses = uses.to_vec();
                    uses.sort_unstable();
                    let mut tx = self.begin().await?;
                    for (key_id, used_at) in uses {
                        query(sql::NOTE_API_KEY_USE)
                            .bind(key_id)
                            .bind(used_at)
                            .execute(&mut *tx)
                            .await
                            .map_err(failed)?;
                    }
                    tx.commit().await.map_err(failed)
                })
                .await
            }
        }

        super::erase::impl_erase!($store);
        super::failures::impl_failures!($store);
        super::replays::impl_replays!($store);
        super::shared::impl_rowwise!();

        /// A statement with its arguments, answered by rows of one kind.
        type Question<'q, R> = sqlx::query::QueryAs<'q, Db, R, <Db as sqlx::Database>::Arguments>;

        /// What all its rows mean.
        async fn all<'c, R, T>(
            question: Question<'_, R>,
            on: impl sqlx::Executor<'c, Database = Db>,
        ) -> Result<Vec<T>, StoreError>
        where
            R: for<'r> sqlx::FromRow<'r, <Db as sqlx::Database>::Row> + Send + Unpin,
            T: TryFrom<R, Error = StoreError>,
        {
            read_all(question.fetch_all(on).await.map_err(failed)?)
        }

        /// Asks what an endpoint may have been told, a page of it.
        fn messages_told<'q>(
            statement: &'static str,
            endpoint: &'q Endpoint,
            after: &'q (DateTime<Utc>, Vec<u8>),
            until: DateTime<Utc>,
            limit: u32,
        ) -> Question<'q, ToldMessageRow> {
            query_as(statement)
                .bind(after.0)
                .bind(&after.1)
                .bind(until)
                .bind(i64::from(limit))
                .bind(endpoint.endpoint_id)
                .bind(endpoint.payload.as_str())
        }

        /// What its row means, if there is one.
        async fn one<'c, R, T>(
            question: Question<'_, R>,
            on: impl sqlx::Executor<'c, Database = Db>,
        ) -> Result<Option<T>, StoreError>
        where
            R: for<'r> sqlx::FromRow<'r, <Db as sqlx::Database>::Row> + Send + Unpin,
            T: TryFrom<R, Error = StoreError>,
        {
            question.fetch_optional(on).await.map_err(failed)?.map(T::try_from).transpose()
        }
    };
}

/// Implements [`super::transaction::Rowwise`] for a store's transaction, `Writing`.
macro_rules! impl_rowwise {
    () => {
        impl Writing {
            /// The slot with no more free than its endpoint's limit lets start now, over all
            /// processes; nobody else claims of it until the transaction is over.
            async fn limited(
                &mut self,
                slot: Slot,
                now: DateTime<Utc>,
            ) -> Result<(Health, Slot), StoreError> {
                let health = self.health(slot.endpoint_id).await?;
                let limit = slot.rate_limit_per_minute.map(RateLimit::new);
                let free = limit.map_or(slot.free, |limit| limit.free(health.next_slot_at, now));
                Ok((health, Slot { free: free.min(slot.free), ..slot }))
            }

            /// So many of a limited slot were claimed.
            async fn started(
                &mut self,
                slot: &Slot,
                mut health: Health,
                now: DateTime<Utc>,
                claimed: usize,
            ) -> Result<(), StoreError> {
                let Some(limit) = slot.rate_limit_per_minute.map(RateLimit::new) else {
                    return Ok(());
                };
                let taken = u32::try_from(claimed).unwrap_or(u32::MAX);
                health.next_slot_at = Some(limit.after(health.next_slot_at, now, taken));
                self.put_health(slot.endpoint_id, &health).await
            }
        }

        #[async_trait]
        impl Rowwise for Writing {
            async fn put_failure(
                &mut self,
                failure: &FailureToKeep<'_>,
            ) -> Result<Uuid, StoreError> {
                query_scalar(failures::PUT_FAILURE)
                    .bind(failure.failure_id)
                    .bind(failure.rejection.code.as_str())
                    .bind(&failure.rejection.pointer)
                    .bind(&failure.rejection.message)
                    .bind(failure.rejection.session_id)
                    .bind(&failure.rejection.event_id)
                    .bind(&failure.rejection.event_type)
                    .bind(failure.source)
                    .bind(i64::try_from(failure.raw.len()).unwrap_or(i64::MAX))
                    .bind(failure.now)
                    .bind(failure.raw)
                    .bind(&failure.raw_sha256[..])
                    .bind(failure.headers)
                    .bind(failure.tenant_id)
                    .bind(failure.character_slug)
                    .fetch_one(&mut *self.0)
                    .await
                    .map_err(failed)
            }

            async fn session(&mut self, session_id: Uuid) -> Result<Option<Session>, StoreError> {
                one::<SessionRow, _>(query_as(sql::SESSION).bind(session_id), &mut *self.0).await
            }

            async fn endpoint(
                &mut self,
                endpoint_id: Uuid,
            ) -> Result<Option<Endpoint>, StoreError> {
                one::<EndpointRow, _>(query_as(sql::ENDPOINT).bind(endpoint_id), &mut *self.0).await
            }

            async fn disable(
                &mut self,
                endpoint_id: Uuid,
                reason: &str,
                now: DateTime<Utc>,
            ) -> Result<Option<Endpoint>, StoreError> {
                one::<EndpointRow, _>(
                    query_as(sql::DISABLE_ENDPOINT).bind(endpoint_id).bind(now).bind(reason),
                    &mut *self.0,
                )
                .await
            }

            async fn forget_failing(&mut self, endpoint_id: Uuid) -> Result<(), StoreError> {
                query(sql::FORGET_FAILING)
                    .bind(endpoint_id)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(())
            }

            async fn health(&mut self, endpoint_id: Uuid) -> Result<Health, StoreError> {
                let row: HealthRow = query_as(sql::LOCK_HEALTH)
                    .bind(endpoint_id)
                    .fetch_one(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(Health::from(&row))
            }

            async fn put_health(
                &mut self,
                endpoint_id: Uuid,
                health: &Health,
            ) -> Result<(), StoreError> {
                let failing = health.failing;
                query(sql::PUT_HEALTH)
                    .bind(endpoint_id)
                    .bind(failing.map(|failing| failing.since))
                    .bind(failing.map(|failing| failing.last_at))
                    .bind(failing.map_or(0, |failing| number(failing.failures)))
                    .bind(failing.map_or(0, |failing| number(failing.days)))
                    .bind(health.paused_until)
                    .bind(health.next_slot_at)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(())
            }

            async fn take_redelivery(
                &mut self,
                now: DateTime<Utc>,
            ) -> Result<Option<Redelivery>, StoreError> {
                one::<RedeliveryRow, _>(
                    query_as(sql::TAKE_REDELIVERY).bind(now).bind(now + redelivery::AFTER_FAILURE),
                    &mut *self.0,
                )
                .await
            }

            async fn put_redelivery(&mut self, job: &Redelivery) -> Result<(), StoreError> {
                query(sql::PUT_REDELIVERY)
                    .bind(job.redelivery_id)
                    .bind(job.state.as_str())
                    .bind(job.redelivered)
                    .bind(job.skipped)
                    .bind(job.position.delivery)
                    .bind(job.position.message.0)
                    .bind(&job.position.message.1)
                    .bind(job.next_step_at)
                    .bind(job.finished_at)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(())
            }

            async fn undelivered(
                &mut self,
                range: &RedeliveryRange,
                after: Uuid,
                limit: u32,
            ) -> Result<Vec<Uuid>, StoreError> {
                query_scalar(sql::UNDELIVERED)
                    .bind(range.endpoint_id)
                    .bind(after)
                    .bind(redelivery::least_id(range.until))
                    .bind(i64::from(limit))
                    .fetch_all(&mut *self.0)
                    .await
                    .map_err(failed)
            }

            async fn redeliver_range(
                &mut self,
                range: &RedeliveryRange,
                (after, last): (Uuid, Uuid),
                now: DateTime<Utc>,
            ) -> Result<u64, StoreError> {
                let owed = query(REDELIVER_RANGE)
                    .bind(range.endpoint_id)
                    .bind(after)
                    .bind(last)
                    .bind(range.statuses.exhausted)
                    .bind(range.statuses.cancelled)
                    .bind(now)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(owed.rows_affected())
            }

            async fn messages_told(
                &mut self,
                endpoint: &Endpoint,
                after: &(DateTime<Utc>, Vec<u8>),
                until: DateTime<Utc>,
                limit: u32,
            ) -> Result<Vec<ToldMessage>, StoreError> {
                let asked = messages_told(MESSAGES_TOLD, endpoint, after, until, limit);
                all::<ToldMessageRow, _>(asked, &mut *self.0).await
            }

            async fn old_messages(
                &mut self,
                before: DateTime<Utc>,
                after: &PrunePosition,
                limit: u32,
            ) -> Result<Vec<OldMessage>, StoreError> {
                query_as(OLD_MESSAGES)
                    .bind(before)
                    .bind(after.0)
                    .bind(&after.1)
                    .bind(i64::from(limit))
                    .fetch_all(&mut *self.0)
                    .await
                    .map_err(failed)
            }

            async fn put_body(
                &mut self,
                row_id: Uuid,
                payload: PayloadKind,
                body: Bytes,
            ) -> Result<(), StoreError> {
                let statement = match payload {
                    PayloadKind::Thin => sql::PUT_THIN,
                    PayloadKind::Full => sql::PUT_FULL,
                };
                query(statement)
                    .bind(row_id)
                    .bind(&*body)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(())
            }
        }
    };
}

/// Messages looked at in one question when a range is counted.
pub(super) const COUNTED_AT_ONCE: u32 = 2000;
/// More is not counted: whoever asks waits for it.
pub(super) const MOST_COUNTED: i64 = 200_000;

/// A small count as both databases keep it.
pub(super) fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) use {impl_rowwise, impl_store};
