-- 1,000 columns, most of them null, matched whole
-- [schema]
select format('create table t(id int primary key, %s)', string_agg(format('c%s text', i), ', ')) from generate_series(1, 999) i \gexec
select format('create table whole(%s)', string_agg(format('c%s int', i), ', ')) from generate_series(1, 1000) i \gexec
alter table whole replica identity full;
-- [changes]
insert into t(id, c1, c500, c999) values (1, 'a', 'b', 'c'), (2, null, null, 'z');
update t set c998 = 'x' where id = 1;
update t set id = 7, c2 = 'y' where id = 2;
insert into whole(c1, c1000) values (1, 2), (1, 3), (null, null);
delete from whole where c1000 = 3;
update whole set c777 = 1 where c1 is null;
