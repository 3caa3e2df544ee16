-- Numerics with 130,000 digits, NaN, infinities, and scales that = does not see
-- [schema]
create table t(id int primary key, n numeric, s numeric(10, 3));
create table whole(n numeric);
alter table whole replica identity full;
-- [changes]
insert into t values (1, 'NaN', 'NaN'), (2, '1.0', 1.0), (3, '1.00', 1), (4, '-0.000', -0.0005), (5, 'Infinity', null), (6, '-Infinity', null);
insert into t select 7, (repeat('9', 130000) || '.' || repeat('1', 16000))::numeric, null;
insert into t values (8, 1e-16000, 9999999.999);
insert into whole values (1.0), (1.00), (1.00), ('NaN'), ('NaN'), (null), (repeat('7', 131072)::numeric), ('Infinity');
update t set n = n * 2 where id in (2, 3);
delete from whole where ctid = (select max(ctid) from whole where n = 1);
update whole set n = '1.000' where ctid = (select min(ctid) from whole where n = 1);
delete from whole where ctid = (select min(ctid) from whole where n = 'NaN');
update whole set n = n + 1 where n > 2;
