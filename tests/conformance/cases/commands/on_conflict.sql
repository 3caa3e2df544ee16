-- INSERT … ON CONFLICT, MERGE, writable CTEs, RETURNING: each arrives as the rows it made
-- [only 15+]
-- [schema]
create table t(id int primary key, n int, v text);
create table log(id int generated always as identity primary key, v text);
-- [changes]
insert into t values (1, 1, 'a'), (2, 2, 'b');
insert into t values (1, 10, 'x'), (3, 3, 'c') on conflict (id) do update set n = t.n + excluded.n, v = excluded.v;
insert into t values (1, 0, 'no'), (4, 4, 'd') on conflict do nothing;
insert into t values (1, 0, 'no') on conflict (id) do update set v = 'never' where t.n < 0;
merge into t using (values (1, 'm'), (2, null), (9, 'new')) s(id, v) on t.id = s.id
    when matched and s.v is null then delete when matched then update set v = s.v when not matched then insert values (s.id, 0, s.v);
with gone as (delete from t where id = 3 returning *), back as (insert into t select id + 100, n, v from gone returning *), noted as (insert into log(v) select v from back returning *) update t set n = n + 1 where id = 1;
