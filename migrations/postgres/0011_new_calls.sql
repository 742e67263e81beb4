-- New calls are written by one statement, which sees what was there as it began. What was erased
-- meanwhile is asked for once it has written (`written` says so): a volatile function sees what is
-- committed by then. The error says that it is to be taken again, as for a transaction that was too late.
CREATE FUNCTION refuse_erased(sessions UUID[], written BIGINT) RETURNS VOID LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM erased_sessions WHERE session_id = ANY (sessions)) THEN
        RAISE 'a session was erased' USING ERRCODE = 'serialization_failure';
    END IF;
END
$$;
