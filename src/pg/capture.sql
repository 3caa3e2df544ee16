CREATE OR REPLACE FUNCTION pgsluice.write_ddl(
    event text, tag text, nested boolean, role text, settings jsonb, is_told boolean)
RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET datestyle = ISO SET intervalstyle = postgres SET timezone = UTC
SET extra_float_digits = 3 SET bytea_output = hex SET lc_monetary = 'C'
AS $body$
DECLARE
    message jsonb := jsonb_build_object('event', event, 'tag', tag, 'at', statement_timestamp()::text);
    found jsonb;
    missing jsonb;
    ours boolean;
BEGIN
    IF event = 'ddl_command_end' THEN
        SELECT jsonb_agg(jsonb_build_object('type', object_type, 'schema', schema_name, 'identity', object_identity))
                   FILTER (WHERE NOT in_extension),
               bool_and(in_extension OR schema_name = 'pgsluice' OR object_identity = 'pgsluice')
          INTO found, ours
          FROM pg_event_trigger_ddl_commands();
        IF tag = 'ALTER TABLE' THEN
            WITH RECURSIVE tree(root, relation) AS (
                SELECT object_identity, objid FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table'
                UNION
                SELECT tree.root, inhrelid FROM tree JOIN pg_inherits ON inhparent = relation)
            SELECT jsonb_agg(DISTINCT jsonb_build_object('table', root, 'column', attname, 'value', attmissingval::text))
              INTO missing
              FROM tree JOIN pg_attribute ON attrelid = relation AND attnum > 0 AND NOT attisdropped AND atthasmissing;
        END IF;
    ELSIF event = 'sql_drop' THEN
        SELECT jsonb_agg(jsonb_build_object('type', object_type, 'schema', schema_name, 'identity', object_identity,
                                            'temporary', is_temporary)) FILTER (WHERE original),
               bool_and(schema_name IS NOT DISTINCT FROM 'pgsluice' OR object_identity = 'pgsluice') FILTER (WHERE original)
          INTO found, ours
          FROM pg_event_trigger_dropped_objects();
    ELSIF event = 'table_rewrite' THEN
        SELECT jsonb_agg(jsonb_build_object('type', 'table', 'schema', nspname,
                   'identity', quote_ident(nspname) || '.' || quote_ident(relname),
                   'reason', pg_event_trigger_table_rewrite_reason(),
                   'temporary', relpersistence = 't', 'unlogged', relpersistence = 'u'))
          INTO found
          FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE c.oid = pg_event_trigger_table_rewrite_oid();
    END IF;
    IF ours OR tag IN ('GRANT', 'REVOKE') OR tag ~ ' (PUBLICATION|SUBSCRIPTION|SERVER|USER MAPPING)$' THEN
        RETURN false;
    END IF;
    message := message || jsonb_build_object('objects', coalesce(found, '[]'), 'role', role, 'settings', settings);
    IF missing IS NOT NULL THEN
        message := message || jsonb_build_object('missing', missing);
    END IF;
    IF nested THEN
        message := message || '{"nested": true}';
    END IF;
    IF NOT is_told THEN
        message := message || jsonb_build_object('query',
            CASE WHEN length(current_query()) <= 1000000 THEN current_query() END);
    END IF;
    PERFORM pg_logical_emit_message(true, 'pgsluice.ddl', convert_to(message::text, 'UTF8'));
    -- Decoding takes the end of a message's record as its place, where the next record starts; between subtransactions the
    -- change there could come first. So something stands between them.
    PERFORM pg_logical_emit_message(true, 'pgsluice.ddl.end', '');
    RETURN true;
END
$body$;

-- Without a pinned search_path, since it tells the caller's: so every name is qualified, and no operator used.
CREATE OR REPLACE FUNCTION pgsluice.capture_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
AS $body$
DECLARE
    context pg_catalog.text;
    told pg_catalog.text;
    role pg_catalog.text;
    is_told pg_catalog.bool;
    written pg_catalog.bool;
BEGIN
    BEGIN
        GET DIAGNOSTICS context = PG_CONTEXT;
        -- The query is told once for each message of the client, and again where that was rolled back.
        told := pg_catalog.concat(pg_catalog.statement_timestamp(), ' ', pg_catalog.length(pg_catalog.current_query()));
        is_told := pg_catalog.texteq(pg_catalog.concat(pg_catalog.current_setting('pgsluice.told', true)), told);
        role := pg_catalog.current_setting('role');
        IF pg_catalog.texteq(role, 'none') THEN
            role := session_user;
        END IF;
        written := pgsluice.write_ddl(TG_EVENT, TG_TAG,
            pg_catalog.int4gt(pg_catalog.strpos(context, E'\n'), 0), role,
            pg_catalog.jsonb_build_object(
                'search_path', pg_catalog.replace(pg_catalog.current_setting('search_path'), '"$user"',
                                                  pg_catalog.quote_ident(role)),
                'DateStyle', pg_catalog.current_setting('DateStyle'),
                'IntervalStyle', pg_catalog.current_setting('IntervalStyle'),
                'TimeZone', pg_catalog.current_setting('TimeZone'),
                'standard_conforming_strings', pg_catalog.current_setting('standard_conforming_strings'),
                'backslash_quote', pg_catalog.current_setting('backslash_quote'),
                'transform_null_equals', pg_catalog.current_setting('transform_null_equals'),
                'array_nulls', pg_catalog.current_setting('array_nulls'),
                'xmloption', pg_catalog.current_setting('xmloption')),
            is_told);
        IF written THEN
            PERFORM pg_catalog.set_config('pgsluice.told', told, true);
        END IF;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            PERFORM pg_catalog.pg_logical_emit_message(true, 'pgsluice.ddl', pg_catalog.convert_to(
                CAST(pg_catalog.json_build_object('event', 'failed', 'tag', TG_TAG, 'error', SQLERRM,
                    'query', pg_catalog.left(pg_catalog.current_query(), 10000)) AS pg_catalog.text), 'UTF8'));
        EXCEPTION WHEN OTHERS THEN
            -- Its text may be what can't be written: all but that.
            PERFORM pg_catalog.pg_logical_emit_message(true, 'pgsluice.ddl',
                CAST(pg_catalog.json_build_object('event', 'failed', 'tag', TG_TAG, 'error', SQLSTATE) AS pg_catalog.text));
        END;
    END;
EXCEPTION WHEN OTHERS THEN
    -- The DDL of the source goes first.
    RAISE WARNING 'pgsluice: % was not captured: %', TG_TAG, SQLERRM;
END
$body$;

REVOKE ALL ON FUNCTION pgsluice.write_ddl(text, text, boolean, text, jsonb, boolean) FROM PUBLIC;
