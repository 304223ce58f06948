# Matrix products: BLAS where they are large enough to be worth the call, and not long and thin.

using LinearAlgebra: BLAS

"Products with fewer multiplications than this are done by loops: the call costs more."
const SMALL_PRODUCT = 400

"""
    Product{T}

`C = A B`, or `C += A B` where `adds`, for row-major C (m, n), A (m, k), B (k, n), `batch` times.
`ta` says that A lies transposed; `lda` is the distance of its rows (or columns).
"""
struct Product{T} <: Function
    m::Int
    n::Int
    k::Int
    a::Ptr{T}
    ta::Bool
    lda::Int
    b::Ptr{T}
    tb::Bool
    ldb::Int
    c::Ptr{T}
    ldc::Int
    batch::Int
    steps::NTuple{3, Int}
    adds::Bool
end

function (p::Product{T})() where {T}
    for i in 0:(p.batch - 1)
        a, b, c = element(p.a, i * p.steps[1]), element(p.b, i * p.steps[2]), element(p.c, i * p.steps[3])
        if p.m * p.n * p.k <= SMALL_PRODUCT
            small_product!(p, a, b, c)
        elseif is_long(p)
            long_product!(p, a, b, c)
        elseif p.n == 1
            # B's one column: rows apart by ldb, or next to each other if transposed.
            gemv!(!p.ta, p.m, p.k, a, p.lda, b, p.tb ? 1 : p.ldb, c, p.ldc, p.adds)
        elseif p.m == 1
            gemv!(p.tb, p.n, p.k, b, p.ldb, a, p.ta ? p.lda : 1, c, 1, p.adds)
        else
            gemm!(p, a, b, c)
        end
    end
    return nothing
end

@inline function small_product!(p::Product{T}, a, b, c) where {T}
    ai, ak = p.ta ? (1, p.lda) : (p.lda, 1)
    bk, bj = p.tb ? (1, p.ldb) : (p.ldb, 1)
    for i in 0:(p.m - 1), j in 0:(p.n - 1)
        sum = inner_product(element(a, i * ai), ak, element(b, j * bj), bk, p.k)
        p.adds && (sum += unsafe_load(c, i * p.ldc + j + 1))
        unsafe_store!(c, sum, i * p.ldc + j + 1)
    end
    return nothing
end

"""
Whether the product is of few rows and few columns that are long and contiguous, as the gradient of
a convolution's weights is. One of (8, 4096) and (4096, 72) took OpenBLAS 221 µs, and dot products of
4 rows and 2 columns at a time take 50 to 65.
"""
is_long(p::Product) = !p.ta && p.tb && p.k >= 512 && 4 <= p.m <= 64 && 2 <= p.n <= 1024

"Length of the pieces of a long product's rows and columns: those of a few stay in the nearest cache."
const LONG_PIECE = 1024

function long_product!(p::Product{T}, a, b, c) where {T}
    (; m, n, k, lda, ldb, ldc) = p
    for start in 0:LONG_PIECE:(k - 1)
        length = min(LONG_PIECE, k - start)
        adds = p.adds || start > 0
        for i in 0:4:(m - 1), j in 0:2:(n - 1)
            rows, columns = element(a, i * lda + start), element(b, j * ldb + start)
            to = element(c, i * ldc + j)
            if i + 4 <= m && j + 2 <= n
                sums = dot_products(rows, lda, columns, ldb, length)
                for r in 0:3, q in 0:1
                    put_sum!(to, r * ldc + q + 1, sums[2r + q + 1], adds)
                end
            else
                for r in 0:(min(4, m - i) - 1), q in 0:(min(2, n - j) - 1)
                    sum = inner_product(element(rows, r * lda), 1, element(columns, q * ldb), 1, length)
                    put_sum!(to, r * ldc + q + 1, sum, adds)
                end
            end
        end
    end
    return nothing
end

@inline put_sum!(c, i, sum, adds) = unsafe_store!(c, adds ? unsafe_load(c, i) + sum : sum, i)

"The dot products of 4 rows with 2 columns, row by row."
@inline function dot_products(a::Ptr{T}, lda, b::Ptr{T}, ldb, n) where {T}
    s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = zero(T)
    @simd for l in 1:n
        x, y = unsafe_load(b, l), unsafe_load(b, l + ldb)
        p, q = unsafe_load(a, l), unsafe_load(a, l + lda)
        r, s = unsafe_load(a, l + 2lda), unsafe_load(a, l + 3lda)
        s1, s2 = muladd(p, x, s1), muladd(p, y, s2)
        s3, s4 = muladd(q, x, s3), muladd(q, y, s4)
        s5, s6 = muladd(r, x, s5), muladd(r, y, s6)
        s7, s8 = muladd(s, x, s7), muladd(s, y, s8)
    end
    return s1, s2, s3, s4, s5, s6, s7, s8
end

"Numbers next to each other from which vector instructions pay."
const WORTH_VECTORS = 8

@inline function inner_product(a::Ptr{T}, a_step, b::Ptr{T}, b_step, n) where {T}
    sum = zero(T)
    if a_step == b_step == 1 && n >= WORTH_VECTORS
        @simd for l in 1:n
            sum += unsafe_load(a, l) * unsafe_load(b, l)
        end
    else
        for l in 0:(n - 1)
            sum = muladd(unsafe_load(a, l * a_step + 1), unsafe_load(b, l * b_step + 1), sum)
        end
    end
    return sum
end

const BlasInt = LinearAlgebra.BlasInt

for (T, gemm, gemv) in ((Float64, :dgemm_, :dgemv_), (Float32, :sgemm_, :sgemv_))
    # BLAS is column-major: of row-major memory it sees the transposes, C' = B' A'.
    @eval function gemm!(p::Product{$T}, a::Ptr{$T}, b::Ptr{$T}, c::Ptr{$T})
        ccall(
            (BLAS.@blasfunc($gemm), BLAS.libblastrampoline), Cvoid,
            (
                Ref{UInt8}, Ref{UInt8}, Ref{BlasInt}, Ref{BlasInt}, Ref{BlasInt}, Ref{$T},
                Ptr{$T}, Ref{BlasInt}, Ptr{$T}, Ref{BlasInt}, Ref{$T}, Ptr{$T}, Ref{BlasInt},
                Clong, Clong,
            ),
            p.tb ? 'T' : 'N', p.ta ? 'T' : 'N', p.n, p.m, p.k, one($T),
            b, p.ldb, a, p.lda, $T(p.adds), c, p.ldc, 1, 1
        )
        return nothing
    end
    # y = M x, or y += M x where it `adds`, for a row-major M (rows, cols) if `plain`, else for
    # one that lies transposed.
    @eval function gemv!(
            plain::Bool, rows::Int, cols::Int, matrix::Ptr{$T}, ld::Int,
            x::Ptr{$T}, incx::Int, y::Ptr{$T}, incy::Int, adds::Bool
        )
        m, n = plain ? (cols, rows) : (rows, cols)
        ccall(
            (BLAS.@blasfunc($gemv), BLAS.libblastrampoline), Cvoid,
            (
                Ref{UInt8}, Ref{BlasInt}, Ref{BlasInt}, Ref{$T}, Ptr{$T}, Ref{BlasInt},
                Ptr{$T}, Ref{BlasInt}, Ref{$T}, Ptr{$T}, Ref{BlasInt}, Clong,
            ),
            plain ? 'T' : 'N', m, n, one($T), matrix, ld, x, incx, $T(adds), y, incy, 1
        )
        return nothing
    end
end

"(transposed, distance of rows) of a window's last two dimensions, as BLAS wants a matrix."
function matrix_layout(w::Window)
    rows, cols = w.shape[end - 1], w.shape[end]
    down, across = w.strides[end - 1], w.strides[end]
    if across == 1 || cols == 1
        rows == 1 && return (false, cols)
        down >= cols && return (false, down)
    end
    if down == 1 || rows == 1
        cols == 1 && return (true, rows)
        across >= rows && return (true, across)
    end
    throw(ArgumentError("no BLAS layout for shape $(w.shape) with strides $(w.strides)"))
end

function Product(buffers, out::Window, first::Window, second::Window, adds::Bool)
    m, k = first.shape[end - 1], first.shape[end]
    n = second.shape[end]
    batched = length(out.shape) == 3
    ta, lda = matrix_layout(first)
    tb, ldb = matrix_layout(second)
    n == 1 || out.strides[end] == 1 ||
        throw(ArgumentError("the rows of a product's result must lie together"))
    ldc = m == 1 ? n : max(out.strides[end - 1], 1)
    steps = batched ? (first.strides[1], second.strides[1], out.strides[1]) : (0, 0, 0)
    return Product(
        m, n, k, address(buffers, first), ta, lda, address(buffers, second), tb, ldb,
        address(buffers, out), ldc, batched ? out.shape[1] : 1, steps, adds
    )
end
