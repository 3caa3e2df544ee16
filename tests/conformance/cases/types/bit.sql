-- Bit strings, fixed and varying, empty
-- [schema]
create table t(id int primary key, b bit(3), v bit varying, v5 bit varying(5), one bit, many bit(2)[]);
create table whole(v varbit, b bit(4));
alter table whole replica identity full;
-- [changes]
insert into t values (1, B'101', B'', B'10101', B'1', '{00,11,null}'), (2, B'000', repeat('10', 5000)::varbit, null, B'0', '{}'), (3, null, null, B'', null, null);
update t set b = ~b, v = v || B'1';
insert into whole values (B'1', B'0001'), (B'01', B'0001'), (B'', null);
delete from whole where v = B'01';
update whole set b = B'1111' where v = B'';
