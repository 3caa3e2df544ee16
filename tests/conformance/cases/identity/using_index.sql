-- Replica identity USING INDEX: the primary key changes, the index column changes, both change
-- [schema]
create table t(id int primary key, u int not null, w text not null, note text);
create unique index t_u on t(w, u);
alter table t replica identity using index t_u;
create table no_pk(u uuid not null unique, v int);
alter table no_pk replica identity using index no_pk_u_key;
-- [changes]
insert into t select i, 100 + i, 'w', 'note' from generate_series(1, 9) i;
update t set id = 21 where id = 1;
update t set u = 222 where id = 2;
update t set id = 23, u = 223, w = 'x' where id = 3;
update t set note = null where id = 4;
delete from t where id = 5;
insert into no_pk select md5(i::text)::uuid, i from generate_series(1, 4) i;
update no_pk set v = 7 where v = 2;
update no_pk set u = md5('x')::uuid where v = 3;
delete from no_pk where v = 4;
