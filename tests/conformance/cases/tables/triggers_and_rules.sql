-- Triggers and rules of the source act there; on the target they stay quiet and nothing happens twice
-- [schema]
create table t(id int primary key, v text);
create table audit(id bigint generated always as identity primary key, what text);
create function note() returns trigger language plpgsql as $$ begin insert into audit(what) values (tg_op || coalesce(new.id, old.id)); return coalesce(new, old); end $$;
create trigger t_note after insert or update or delete on t for each row execute function note();
create function upper_v() returns trigger language plpgsql as $$ begin new.v := upper(new.v) || '!'; return new; end $$;
create trigger t_upper before insert or update on t for each row execute function upper_v();
create table ruled(id int primary key);
create rule also as on insert to ruled do also insert into audit(what) values ('rule ' || new.id);
-- [changes]
insert into t values (1, 'a'), (2, 'b');
update t set v = 'c' where id = 1;
delete from t where id = 2;
insert into ruled values (1);
