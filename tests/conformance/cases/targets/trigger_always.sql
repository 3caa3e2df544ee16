-- A trigger ENABLE ALWAYS on the target runs on applied rows, into a table of its own
-- [schema]
create table t(id int primary key, v text);
-- [target]
create table log(id int, v text);
create function note() returns trigger language plpgsql as $$ begin insert into public.log values (new.id, new.v); return new; end $$;
create trigger a after insert or update on t for each row execute function note();
alter table t enable always trigger a;
create trigger r after insert on t for each row execute function note();
alter table t enable replica trigger r;
-- [changes]
insert into t values (1, 'a'), (2, 'b');
update t set v = 'c' where id = 1;
