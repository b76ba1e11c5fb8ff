"""What the loops of `row_kernels` do to memory at an address, as LLVM instructions that numba does not generate itself.

Addresses are int64. All instructions exist for every processor; some have a fast form only on newer ones.
"""

from __future__ import annotations

import functools

import numba
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic

from .quantize import BLOCK, NF4

WIDTH = 16  # numbers that are looked up at a time
VECTOR = ir.VectorType(ir.FloatType(), WIDTH)


def pointer_to(element):
    """Return a function that makes an address a pointer to numbers of a type."""

    @intrinsic
    def pointer(typing, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.intp), generate

    return pointer


floats, signed = pointer_to(types.float32), pointer_to(types.int8)
unsigned, integers = pointer_to(types.uint8), pointer_to(types.int64)


@intrinsic
def add(typing, address, number):
    """Add to the int64 at an address, as one step that other threads cannot divide; return its value before."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "acq_rel")

    return types.int64(types.intp, types.int64), generate


@intrinsic
def look_up(typing, codes, scale, target):
    """Write NF4's values times scale for 16 bytes at `codes`, the upper half of each byte before its lower one."""

    def generate(context, builder, signature, arguments):
        codes, scale, target = arguments
        scales = _gathered(builder, WIDTH, lambda number: scale)
        upper, lower = (builder.fmul(values, scales) for values in _values_at(builder, codes))
        for half in range(2):
            order = [number // 2 + number % 2 * WIDTH + half * WIDTH // 2 for number in range(WIDTH)]
            values = builder.shuffle_vector(upper, lower, _constant(order))
            place = builder.add(target, ir.IntType(64)(4 * WIDTH * half))
            builder.store(values, builder.inttoptr(place, VECTOR.as_pointer()), align=4)

    return types.void(types.intp, types.float32, types.intp), generate


@intrinsic
def add_products(typing, codes, scale, row, sums):
    """Add to 16 sums the products of NF4's values for 16 bytes, scale, and an input each."""

    def generate(context, builder, signature, arguments):
        codes, scale, row, sums = arguments
        place = builder.inttoptr(sums, VECTOR.as_pointer())
        total = builder.load(place, align=4)
        products = None
        for number, values in enumerate(_values_at(builder, codes)):
            start = builder.add(row, ir.IntType(64)(4 * number * BLOCK // 2))
            inputs = builder.load(builder.inttoptr(start, VECTOR.as_pointer()), align=4)
            product = builder.fmul(values, inputs, flags=["contract"])
            products = product if products is None else builder.fadd(products, product, flags=["contract"])
        scales = _gathered(builder, WIDTH, lambda number: scale)
        scaled = builder.fmul(products, scales, flags=["contract"])
        builder.store(builder.fadd(total, scaled, flags=["contract"]), place, align=4)

    return types.void(types.intp, types.float32, types.intp, types.intp), generate


def _values_at(builder, codes) -> tuple:
    """Return NF4's values for 16 bytes at an address: of their upper halves and of their lower halves."""
    place = builder.inttoptr(codes, ir.VectorType(ir.IntType(8), WIDTH).as_pointer())
    both = builder.zext(builder.load(place, align=1), _integers(WIDTH))
    upper = builder.lshr(both, _constant([4] * WIDTH))
    lower = builder.and_(both, _constant([15] * WIDTH))
    return _values_of(builder, upper), _values_of(builder, lower)


def _values_of(builder, indices):
    """Return the 16 values of NF4 at 16 indices.

    With AVX-512 this is one instruction, because the table is one register. With AVX2 a table has eight numbers.
    """
    if _has_wide_registers():
        return _picked(builder, NF4, indices)
    halves = []
    for start in (0, WIDTH // 2):
        part = builder.shuffle_vector(indices, indices, _constant(range(start, start + WIDTH // 2)))
        place = builder.and_(part, _constant([7] * (WIDTH // 2)))
        is_high = builder.icmp_unsigned(">", part, _constant([7] * (WIDTH // 2)))
        low, high = (_picked(builder, table, place) for table in (NF4[:8], NF4[8:]))
        halves.append(builder.select(is_high, high, low))
    return builder.shuffle_vector(*halves, _constant(range(WIDTH)))


@functools.cache
def _has_wide_registers() -> bool:
    """Return whether numba compiles for AVX-512."""
    wanted = numba.config.CPU_FEATURES
    return "+avx512f" in (get_host_cpu_features().flatten() if wanted is None else wanted)


def _picked(builder, table, indices):
    """Return the numbers of a table at as many indices, in a form that the compiler turns into one instruction."""
    table = ir.Constant(ir.VectorType(ir.FloatType(), len(table)), [float(value) for value in table])

    def number_at(number: int):
        return builder.extract_element(table, builder.extract_element(indices, ir.IntType(32)(number)))

    return _gathered(builder, len(table.constant), number_at)


def _gathered(builder, width: int, number_at):
    """Return a vector of number_at(0), number_at(1) .."""
    result = ir.Constant(ir.VectorType(ir.FloatType(), width), ir.Undefined)
    for number in range(width):
        result = builder.insert_element(result, number_at(number), ir.IntType(32)(number))
    return result


def _integers(width: int):
    return ir.VectorType(ir.IntType(32), width)


def _constant(numbers):
    """Return a vector of integers."""
    numbers = list(numbers)
    return ir.Constant(_integers(len(numbers)), numbers)
